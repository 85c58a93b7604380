"""Messages, pictures and videos to Qwen2-VL's inputs: Qwen2.5-VL's, without the seconds of a video's step."""

from __future__ import annotations

from pathlib import Path

from mix_core.models.qwen2_5_vl.processor import Processor, read_processor
from mix_core.models.qwen2_vl.config import config_from_dict
from mix_core.models.registry import read_config


def load_processor(folder: Path) -> Processor:
    """Read a published folder. Raises BadInputError for a missing, unreadable or contradictory file."""
    config = config_from_dict(read_config(folder))
    return read_processor(folder, config, published_class="Qwen2VLProcessor")
