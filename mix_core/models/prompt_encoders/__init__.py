"""What the text-to-image models are told of a prompt: their text encoders and tokenizers together.

Importing this package imports no paddle.
"""
