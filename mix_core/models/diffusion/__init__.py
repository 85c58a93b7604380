"""What the networks of text to image share: layers, attention, residual blocks, folders and single files."""
