"""Data: readers, mixing, packing, pictures and video, batches, and the bundled sample."""
