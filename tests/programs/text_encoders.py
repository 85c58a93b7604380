"""Text encoders in 16 bits on the active device beside float32: distances, dtypes and fallbacks, as JSON.

Argument: a folder with `clip` and `t5`, each with a config.json. T5's weights are made as large as those of
its published sizes: a stream and inner products beyond float16's last number.
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

from mix_core.models.clip_text.weights import load_clip_text  # noqa: E402
from mix_core.models.t5.weights import load_t5  # noqa: E402

IDS = np.random.default_rng(0).integers(3, 90, (2, 12))


FACTORS = {"shared.weight": 1e5, "wi_0.weight": 30.0, "wi_1.weight": 2e4}


def grown(model: Any) -> Any:
    """T5 whose parameters and single maps fit into float16, but not its stream nor what `wo` multiplies."""
    for name, parameter in model.named_parameters():
        for end, factor in FACTORS.items():
            if name.endswith(end):
                parameter.set_value(parameter * factor)
    return model


def measure(model: Any, dtype: str) -> dict[str, Any]:
    """Output in `dtype` beside float32's, and whether a training step's gradients are finite."""
    wide = last_of(model(IDS)).numpy()
    model.to(dtype=dtype)
    model.train()
    narrow = last_of(model(IDS))
    narrow.astype("float32").mean().backward()
    gradients = [p.grad.astype("float32").numpy() for p in model.parameters() if p.grad is not None]
    found = narrow.astype("float32").numpy()
    return {
        "dtype": str(narrow.dtype).removeprefix("paddle."),
        "distance": float(np.linalg.norm(found - wide) / np.linalg.norm(wide)),
        "gradients": len(gradients),
        "finite": bool(all(np.isfinite(gradient).all() for gradient in gradients)),
    }


def last_of(output: Any) -> paddle.Tensor:
    return output if isinstance(output, paddle.Tensor) else output.last


def main() -> None:
    folder = Path(sys.argv[1])
    found = {}
    for dtype in ("bfloat16", "float16"):
        found[f"clip {dtype}"] = measure(load_clip_text(folder / "clip", random_init=True), dtype)
        found[f"t5 {dtype}"] = measure(grown(load_t5(folder / "t5", random_init=True)), dtype)
    peak = float(np.abs(inner_peak(folder)).max())
    from mix_core.device import simulate

    print(json.dumps({"found": found, "peak": peak, "fallbacks": simulate.counters()["fallbacks"]}))


def inner_peak(folder: Path) -> np.ndarray:
    """What T5's last norm sees in float32."""
    model = grown(load_t5(folder / "t5", random_init=True))
    seen: list[np.ndarray] = []
    model.encoder.final_layer_norm.register_forward_pre_hook(
        lambda layer, given: seen.append(given[0].numpy())
    )
    model(IDS)
    return seen[0]


if __name__ == "__main__":
    main()
