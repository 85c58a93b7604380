"""A family's tiny model, run the same way on device and host: logits, gradients, answers, training.

Shapes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mix_core.models.registry import ModelFamily, TinyModel, families, get_family

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 20
RATE = 2e-4
NEW_TOKENS = 4
KEYS = SimpleNamespace(
    save_optimizer=True, save_random_state=True, load_optimizer=True, load_random_state=True, seed=0
)
"""The keys of a run that a checkpoint looks at."""


class NoProcessor:
    """Stands where a run's processor is; a tiny model has none."""

    def save(self, folder: Path) -> None:
        return None


def tiny_families() -> list[str]:
    """Families that give a tiny model."""
    return sorted(name for name, family in families().items() if family.tiny)


def tiny_of(name: str) -> tuple[ModelFamily, TinyModel]:
    family = get_family(name)
    assert family.tiny is not None, f"{name} is one of tiny_families()"
    return family, family.tiny()


def divided_families() -> list[str]:
    """Those of them whose layers ranks may share."""
    return [name for name in tiny_families() if get_family(name).tensor_plan is not None]


def built(name: str, *, kv_heads: int | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    """The model with its first weights, which numpy draws, and its batch.

    `kv_heads`: another number of the decoder's key/value heads, so that ranks can share them.
    """
    family, tiny = tiny_of(name)
    config = tiny.config if kv_heads is None else with_kv_heads(tiny.config, kv_heads)
    model = family.build(family.config_from_dict(config))
    family.init_weights(model, 0)
    return model, dict(tiny.batch)


def with_kv_heads(config: dict[str, Any], heads: int) -> dict[str, Any]:
    """The configuration with as many key/value heads, wherever it names a number of them."""
    changed = {
        key: with_kv_heads(value, heads) if isinstance(value, dict) else value
        for key, value in config.items()
    }
    return changed | ({"num_key_value_heads": heads} if "num_key_value_heads" in config else {})


def unlabelled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in batch.items() if key != "labels"}


def logits(name: str, dtype: str = "float32", model: Any = None) -> np.ndarray:
    """Of the tokens that are no padding, (tokens, V)."""
    import paddle

    fresh, batch = built(name)
    model = fresh if model is None else model
    model.to(dtype=dtype)
    model.eval()
    with paddle.no_grad():
        found = model.logits(unlabelled(batch)).astype("float32").numpy()
    kept: np.ndarray = found[batch["attention_mask"].astype(bool)]
    return kept


def gradients(name: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Of the mean loss, by parameter."""
    model, batch = built(name)
    model.to(dtype=dtype)
    model.train()
    loss, count = model.loss(batch)
    (loss / count).backward()
    return {
        key: parameter.grad.astype("float32").numpy()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def answer(name: str, dtype: str = "float32", cached: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The most likely tokens (steps, B) and the logits that chose them (steps, B, V)."""
    import paddle

    model, batch = built(name)
    model.to(dtype=dtype)
    model.eval()
    batch = unlabelled(batch)
    B, S = batch["input_ids"].shape
    tokens: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    cache = model.new_cache(B, S + NEW_TOKENS) if cached else None
    for step in range(NEW_TOKENS):
        if cache is None:
            with paddle.no_grad():
                found = _last_logits(model, batch, tokens)
        else:
            found = model.prefill(cache, batch) if step == 0 else model.decode(cache, tokens[-1])
            found = found.astype("float32").numpy()
        chosen.append(found)
        tokens.append(found.argmax(-1))
    return np.stack(tokens), np.stack(chosen)


def _last_logits(model: Any, batch: dict[str, np.ndarray], tokens: list[np.ndarray]) -> np.ndarray:
    """Logits of the last token of each row, the answer so far appended, all of it computed anew."""
    mask = batch["attention_mask"].astype(bool)
    B, S = mask.shape
    lengths = mask.sum(1)
    ids = np.zeros((B, S + len(tokens)), np.int64)
    longer = np.zeros((B, S + len(tokens)), np.int64)
    for row in range(B):
        whole = [*batch["input_ids"][row][mask[row]], *(step[row] for step in tokens)]
        ids[row, : len(whole)], longer[row, : len(whole)] = whole, 1
        ids[row, len(whole) :] = batch["input_ids"][row][~mask[row]][:1] if not mask[row].all() else 0
    found = model.logits(batch | {"input_ids": ids, "attention_mask": longer}).astype("float32").numpy()
    kept: np.ndarray = found[np.arange(B), lengths + len(tokens) - 1]
    return kept


class Training:
    """Steps of the real training loop on the tiny batch."""

    def __init__(self, name: str, dtype: str = "float32", level: str = "O0") -> None:
        from mix_core.device import ensure_active
        from mix_core.training.loop import Stepper
        from mix_core.training.optimizer import AdamW
        from mix_core.training.precision import Precision
        from mix_core.training.schedule import Schedule
        from mix_core.training.snapshot import Parts

        active = ensure_active()
        precision = Precision.of(dtype, level, active)
        self.family, tiny = tiny_of(name)
        self.model, self.batch = built(name)
        self.optimizer = AdamW(self.model, weight_decay=0.1, masters=precision.narrow(self.model))
        self.model.train()
        loss_scale = precision.loss_scale()
        schedule = Schedule("constant", RATE, STEPS)
        rest = {"max_grad_norm": 1.0, "seed": 0, "precision": precision, "loss_scale": loss_scale}
        self.stepper = Stepper(self.model, self.optimizer, schedule, **rest)  # type: ignore[arg-type]
        config = self.family.config_from_dict(tiny.config)
        self.parts = Parts(
            KEYS,  # type: ignore[arg-type]
            self.family,
            config,
            self.model,
            NoProcessor(),
            self.optimizer,
            active.runtime,
            precision.parameter_dtype,
            loss_scale,
        )

    def steps(self, first: int, last: int, passes: int = 1) -> list[float]:
        """Losses of the steps `first` to `last`."""
        from mix_core.training.stream import StepBatches

        losses = []
        for step in range(first, last + 1):
            batches = StepBatches([dict(self.batch) for _ in range(passes)], 1, 0.0, False)
            losses.append(self.stepper.take(step, batches, time.perf_counter(), 0.0).loss)
        return losses

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: parameter.numpy() for name, parameter in self.model.named_parameters()}


def curve(name: str, dtype: str = "float32", level: str = "O0") -> list[float]:
    """Losses of the first 20 steps."""
    return Training(name, dtype, level).steps(1, STEPS)
