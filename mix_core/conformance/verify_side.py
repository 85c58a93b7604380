"""One side of `mix-core verify`: the user's model on one device, in a process of its own.

`python -m mix_core.conformance.verify_side PLAN OUT` reads a JSON plan and writes an .npz file: `losses` of
the steps, `logits` before them, and `layer.N` with a few numbers of each layer's output in that pass, by the
order in which layers end; `names` are the layers'.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

KEPT = 2048
"""Numbers kept of a layer's output, spread over it."""
RATE = 1e-5


def main(words: list[str]) -> None:
    plan = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    import mix_core.device as device
    from mix_core.device import Workload

    workload = Workload(dtype=plan["dtype"], simulate=plan["simulated"])
    active = device.activate(plan["device"], workload=workload, kernels=plan["kernels"], allow_reexec=True)
    from mix_core.models.registry import load_model
    from mix_core.training.precision import Precision

    folder = Path(plan["folder"])
    family, _, model = load_model(folder)
    processor = family.load_processor(folder)
    batch = _batch(processor)
    narrow = plan["dtype"] != "float32"
    precision = Precision.of(plan["dtype"], "O2" if narrow else "O0", active)
    masters = precision.narrow(model)
    arrays = _looked_at(model, batch)
    arrays["losses"] = np.array(_steps(model, batch, precision, masters, plan["steps"]))
    np.savez(Path(words[1]), **arrays)  # type: ignore[arg-type]


def _batch(processor: Any) -> dict[str, np.ndarray]:
    """Two rows with a picture each, drawn here, so that nothing is read or fetched."""
    from PIL import Image

    draw = np.random.default_rng(0)
    samples = []
    for question, answer, side in (
        ("What is shown?", "A pattern of squares.", 56),
        ("Count to three.", "One, two, three.", 84),
    ):
        picture = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        asked = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        samples.append(processor.encode(messages, max_length=None, describe="the sample of verify"))
    batch: dict[str, np.ndarray] = processor.collate(samples)
    return batch


def _looked_at(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits, and what each layer gave on the way."""
    import paddle

    names: list[str] = []
    kept: dict[str, np.ndarray] = {}

    def note(name: str) -> Any:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, paddle.Tensor) and first.size:
                flat = first.detach().astype("float32").numpy().reshape(-1)
                kept[f"layer.{len(names)}"] = flat[:: max(1, len(flat) // KEPT)]
                names.append(name)

        return hook

    handles = [layer.register_forward_post_hook(note(name)) for name, layer in model.named_sublayers()]
    model.eval()
    with paddle.no_grad():
        logits = model.logits({k: v for k, v in batch.items() if k != "labels"}).astype("float32").numpy()
    for handle in handles:
        handle.remove()
    mask = batch["attention_mask"].astype(bool)
    return {"names": np.array(names), "logits": logits[mask], **kept}


def _steps(model: Any, batch: dict[str, np.ndarray], precision: Any, masters: Any, steps: int) -> list[float]:
    from mix_core.training.loop import Stepper
    from mix_core.training.optimizer import AdamW
    from mix_core.training.schedule import Schedule
    from mix_core.training.stream import StepBatches

    model.train()
    optimizer = AdamW(model, weight_decay=0.01, masters=masters)
    stepper = Stepper(
        model,
        optimizer,
        Schedule("constant", RATE, steps),
        max_grad_norm=1.0,
        seed=0,
        precision=precision,
        loss_scale=precision.loss_scale(),
    )
    return [
        stepper.take(step, StepBatches([dict(batch)], 1, 0.0, False), time.perf_counter(), 0.0).loss
        for step in range(1, steps + 1)
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
