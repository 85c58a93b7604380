"""T5's encoder, for text to image. Importing this package imports no paddle."""
