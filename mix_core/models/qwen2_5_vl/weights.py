"""Names and layout of Qwen2.5-VL's weights between the published files and the model."""

from __future__ import annotations
