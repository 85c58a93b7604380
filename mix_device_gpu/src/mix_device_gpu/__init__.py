"""The mix-core device plugin for NVIDIA GPUs."""
