"""Names of what a run leaves. Imports no paddle."""

from __future__ import annotations

from pathlib import Path

ADAPTER = "pytorch_lora_weights.safetensors"
"""As diffusers names it."""
METADATA = "lora_adapter_metadata"
"""In its header: PEFT's configuration of each part."""


def is_picture_adapter(folder: Path) -> bool:
    return (Path(folder) / ADAPTER).is_file()
