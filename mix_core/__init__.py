"""mix-core: multimodal training and inference on PaddlePaddle that knows no hardware.

Importing this package imports neither paddle nor any plugin; `mix_core.load` does so when called.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from mix_core.inference.engine import load

        return load
    raise AttributeError(f"module 'mix_core' has no attribute {name!r}")
