"""CLIP's text encoders, for text to image. Importing this package imports no paddle."""
