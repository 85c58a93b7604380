"""One step of a family's tiny model, run by `mix-core audit` in a process on the simulated device.

`python -m mix_core.cli.audit_model FAMILY DTYPE train|infer`. The counters start after the model is built.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.registry import ModelFamily, TinyModel, get_family

NEW_TOKENS = 3


def tiny_of(name: str) -> tuple[ModelFamily, TinyModel]:
    """The family and its tiny model. Raises BadInputError."""
    family = get_family(name)
    if family.tiny is None:
        raise BadInputError(
            f"the family {family.name} has no tiny model to audit; its package can give one as "
            "ModelFamily.tiny, or audit a program of yours: mix-core audit --device D -- CMD"
        )
    return family, family.tiny()


def main(argv: list[str]) -> None:
    name, dtype, mode = argv
    family, tiny = tiny_of(name)
    from mix_core.device import Workload, activate, simulate

    activate(workload=Workload(model=name, mode="train" if mode == "train" else "infer", dtype=dtype))
    model = family.build(family.config_from_dict(tiny.config))
    family.init_weights(model, 0)
    step = (_training if mode == "train" else _answering)(model, tiny.batch, dtype)
    simulate.reset_counters()
    step()


def _training(model: Any, batch: dict[str, Any], dtype: str) -> Callable[[], object]:
    """A step of two passes, so that gradients are summed; 16 bits as level O2."""
    from mix_core.training.loop import Stepper
    from mix_core.training.optimizer import AdamW
    from mix_core.training.precision import Precision
    from mix_core.training.schedule import Schedule
    from mix_core.training.stream import StepBatches

    precision = Precision() if dtype == "float32" else Precision(dtype, "O2")
    optimizer = AdamW(model, weight_decay=0.1, masters=precision.narrow(model))
    model.train()
    stepper = Stepper(
        model,
        optimizer,
        Schedule("constant", 1e-4, 1),
        max_grad_norm=1.0,
        seed=0,
        precision=precision,
        loss_scale=precision.loss_scale(),
    )
    batches = StepBatches([batch, batch], tokens=2 * batch["input_ids"].size, epoch=0.0, ends_epoch=False)
    return lambda: stepper.take(1, batches, time.perf_counter(), 0.0)


def _answering(model: Any, batch: dict[str, Any], dtype: str) -> Callable[[], object]:
    """A prompt and a few tokens, the most likely ones and drawn ones."""
    from mix_core.inference.generation import generate

    if dtype != "float32":
        model.to(dtype=dtype)
    model.eval()
    prompt = {key: value for key, value in batch.items() if key != "labels"}

    def answer() -> None:
        generate(model, prompt, max_new_tokens=NEW_TOKENS)
        generate(model, prompt, max_new_tokens=NEW_TOKENS, temperature=0.8, top_k=20, top_p=0.9)

    return answer


if __name__ == "__main__":
    main(sys.argv[1:])
