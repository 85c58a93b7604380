"""Diffusion networks on the active device in 16 bits beside float32: distances and fallbacks, as JSON.

Argument: a folder with a folder for each network, with its config.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import mix_core.device as device

device.activate()

import paddle  # noqa: E402 (after the settings)

from mix_core.models.diffusion.network import load_network  # noqa: E402
from mix_core.models.diffusion.weights import draw_weights  # noqa: E402
from mix_core.ops.dtypes import products_in  # noqa: E402


def call(name: str, model: Any) -> paddle.Tensor:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> paddle.Tensor:
        return paddle.to_tensor(rng.standard_normal(shape, dtype=np.float32))

    if name == "vae":
        return model(draw(1, 3, 16, 8), draw(1, 4, 8, 4))
    if name == "mmdit":
        return model(draw(2, 16, 4, 6), draw(2, 5, 12), draw(2, 5), np.array([3.0, 900.0]))
    return model(draw(2, 4, 6, 4), 30, draw(2, 5, 12), draw(2, 5), draw(2, 6))


def measure(name: str, model: Any, dtype: str, whole: bool) -> dict[str, Any]:
    """`whole`: parameters in `dtype` too, not only products."""
    wide = call(name, model).numpy()
    model.train()
    if whole:
        model.to(dtype=dtype)
    with products_in(None if whole else getattr(paddle, dtype)):
        narrow = call(name, model)
        narrow.astype("float32").mean().backward()
    gradients = [p.grad.astype("float32").numpy() for p in model.parameters() if p.grad is not None]
    found = narrow.astype("float32").numpy()
    return {
        "distance": float(np.linalg.norm(found - wide) / np.linalg.norm(wide)),
        "without": [n for n, p in model.named_parameters() if p.grad is None],
        "finite": bool(all(np.isfinite(gradient).all() for gradient in gradients)),
    }


def main() -> None:
    from mix_core.device import simulate

    found = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        for dtype in ("bfloat16", "float16"):
            for level in ("O1", "O2"):
                model = load_network(folder, seed=0)
                draw_weights(model, 0, zeros=False)
                found[f"{folder.name} {dtype} {level}"] = measure(folder.name, model, dtype, level == "O2")
    print(json.dumps({"found": found, "fallbacks": simulate.counters()["fallbacks"]}))


if __name__ == "__main__":
    main()
