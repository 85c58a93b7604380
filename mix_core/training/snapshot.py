"""What a checkpoint of a session holds: a model folder or an adapter for everyone, and the training state.

Writing has two halves. `Parts.capture` notes all that changes from step to step, while training stands still;
what it returns is written with no look at the device where `read` has copies of the tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.models.common.chat_template import TEMPLATE_FILE
from mix_core.models.common.parts import held_box, is_part, whole_shape
from mix_core.models.common.weights import parameters_of, slots_of, values_from
from mix_core.training import state
from mix_core.training.faults import place
from mix_core.training.optimizer import AdamW, KeptPart

if TYPE_CHECKING:
    import numpy as np
    from paddle import Tensor

    from mix_core.config import RunConfig
    from mix_core.device import DeviceRuntime
    from mix_core.models.registry import ModelFamily
    from mix_core.training.best import Best
    from mix_core.training.lora import RunAdapter
    from mix_core.training.loss_scale import LossScale

WEIGHTS = "weights"
"""Files of parts of parameters, which are put together to the published files and then removed."""
RANDOM_STATE = "random."
"""Before the parts of the device generator's state, in checkpoints."""


@dataclass(frozen=True)
class Progressed:
    """How far a run has come."""

    step: int
    position: int
    """Rows visited."""
    waiting: tuple[int, ...] = ()
    """Visits that packing has read ahead (data/loader.py)."""


@dataclass
class Parts:
    """The parts of a session that change while it runs, and what is needed to write them down."""

    config: RunConfig
    family: ModelFamily
    model_config: Any
    model: Any
    processor: Any
    optimizer: AdamW
    runtime: DeviceRuntime
    weights_dtype: str = "float32"
    """Of the model's parameters, which are published as they are."""
    loss_scale: LossScale | None = None
    best: Best | None = None
    adapter: RunAdapter | None = None
    """What learns in place of the model; a checkpoint then holds it and not the model."""
    learned: Sequence[str] = ()
    """Published names of the model's own parameters that learn, on whatever rank they are."""
    writes_frozen: bool = True
    """Whether this rank writes its parts of parameters that do not learn; others may have the same."""

    def load_weights(self, checkpoint: Path) -> None:
        """Go back to what a checkpoint of this run holds."""
        if self.adapter is not None:
            self.adapter.load(checkpoint)
        else:
            self.family.load_weights(self.model, checkpoint)

    def holds(self, parameter: Tensor) -> bool:
        """Whether this rank has a parameter of its model, and no other one answers for it."""
        stage = self.optimizer.stage
        return stage is None or (stage.has(parameter) and not stage.repeats(parameter))

    def weights(self) -> list[KeptPart]:
        """What this rank writes of parameters that no rank has whole, by the parameters' names."""
        learning = {name for name, _ in self.optimizer.named_parameters()}
        frozen = [
            KeptPart(name, one, held_box(one), whole_shape(one))
            for name, one in self.model.named_parameters()
            if self.writes_frozen and is_part(one) and self.holds(one) and name not in learning
        ]
        found = [*self.optimizer.weights(), *frozen]
        if self.adapter is None or all(part.name in learning for part in found):
            return found
        named, written = dict(self.model.named_parameters()), self.adapter.tensors(self.learned)
        wanted = {id(one) for one in written}
        return [part for part in found if id(named[part.name]) in wanted]

    def tensors(self, *, model: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors that a checkpoint takes values of -> (all of them, those that change in training).

        `model`: whether this rank writes the model.
        """
        parts = self.weights()
        at_rest = {id(one) for one in self.model.parameters() if one.stop_gradient}
        still = [part.tensor for part in parts if id(part.tensor) in at_rest]
        kept = [part.tensor for part in parts if id(part.tensor) not in at_rest]
        if self.config.save_optimizer:
            kept += [part.tensor for part in self.optimizer.kept()]
        if not model:
            return still + kept, kept
        if self.adapter is not None:
            found = self.adapter.tensors(self.learned)
        else:
            slots = (self.family.slots or slots_of)(self.model)
            found = [*parameters_of(slots.values()), *self.model.parameters()]
        named = dict(self.model.named_parameters())
        divided = {id(named[part.name]) for part in parts}
        found = [one for one in found if id(one) not in divided and self.holds(one)]
        return found + still + kept, [one for one in found if not one.stop_gradient] + kept

    def capture(self, reached: Progressed, read: Callable[[Tensor], np.ndarray]) -> Captured:
        """Note what a checkpoint will hold. `read`: a tensor's values on the host, now or later."""
        random: list[tuple[str, state.Piece]] = []
        if self.config.save_random_state:
            parts = self.runtime.get_random_state().items()
            random = [(RANDOM_STATE + name, state.whole_piece(state.storable(v))) for name, v in parts]
        values = {
            "optimizer_steps": self.optimizer.steps,
            "position": reached.position,
            "waiting": list(reached.waiting),
            "seed": self.config.seed,
            "family": self.family.name,
        }
        if self.loss_scale is not None:
            values["loss_scale"] = self.loss_scale.state()
        if self.best is not None:
            values["best"] = self.best.state()
        best_step = self.best.step if self.best is not None else None
        return Captured(self, reached.step, values, random, read, best_step)

    def write_model(self, folder: Path) -> None:
        """What everyone can load: the model and its processor, or the adapter."""
        if self.adapter is not None:
            self.adapter.write(folder, self.learned)
            if self.config.chat_template:  # the model's folder has another
                path = folder / TEMPLATE_FILE
                path.write_text(self.processor.template.source, encoding="utf-8")
            return
        self.family.save_weights(self.model, folder)
        self.family.write_config(self.model_config, folder, dtype=self.weights_dtype)
        self.processor.save(folder)

    def restore(self, checkpoint: Path) -> Progressed:
        """Take the training state from a checkpoint; the model's weights are loaded already.

        Raises:
            CheckpointError: it does not hold what load_optimizer asks for, or that of another model.
        """
        reader = state.StateReader(checkpoint)
        values = reader.manifest["state"]
        if self.config.load_optimizer:
            self.optimizer.load(reader, int(values["optimizer_steps"]))
        if self.loss_scale is not None and "loss_scale" in values:
            self.loss_scale.load(values["loss_scale"])
        if self.best is not None and "best" in values:
            self.best.load(values["best"])
        step = int(reader.manifest["step"])
        if not self.config.load_random_state:
            return Progressed(step, position=0)
        names = reader.names(RANDOM_STATE)
        if names:
            self._take_random({n.removeprefix(RANDOM_STATE): reader.read(n) for n in names}, checkpoint)
        return Progressed(step, int(values["position"]), tuple(values.get("waiting", ())))

    def _take_random(self, kept: dict[str, np.ndarray], checkpoint: Path) -> None:
        """Generators differ by kind of device: a CPU's state means nothing to a card's."""
        own = self.runtime.get_random_state()
        if {n: v.shape for n, v in kept.items()} == {n: v.shape for n, v in own.items()}:
            self.runtime.set_random_state(kept)
            return
        print(
            f"{checkpoint.name} was written on another kind of device: its random state is passed over, and "
            f"Paddle's generators start from seed {self.config.seed}",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Captured:
    """A checkpoint that is yet to be written."""

    parts: Parts
    step: int
    values: dict[str, Any]
    """Of the manifest's `state`."""
    random: list[tuple[str, state.Piece]]
    read: Callable[[Tensor], np.ndarray]
    best_step: int | None

    def write(self, folder: Path, others: Iterable[Mapping[str, Any]] = ()) -> None:
        """Fill a checkpoint's folder: this rank's share, then, once the others' are there, the rest.

        `others`: what `write_share` gave on each further rank.
        """
        inner = folder / state.FOLDER
        inner.mkdir(exist_ok=True)
        shares = [self.write_share(inner), *others]
        self._write_model(folder, state.joined([share["weights"] for share in shares]))
        for path in inner.glob(f"{WEIGHTS}*"):
            path.unlink()
        values = self.values | {"ranks": len(shares)}
        tensors = state.joined([share["tensors"] for share in shares])
        state.write_manifest(inner, self.step, values, tensors)

    def write_share(self, folder: Path, stem: str = "") -> dict[str, Any]:
        """Write what this rank has of the training state, and its parts of parameters that no rank has whole.

        `stem`: in the names of the files; the first rank's is empty. -> the entries of both for the manifest.
        """
        tensors: dict[str, Any] = {}
        if self.parts.config.save_optimizer:
            moments = self._pieces(self.parts.optimizer.kept())
            tensors |= state.write_pieces(folder, f"optimizer{stem}", moments)
        if not stem:
            tensors |= state.write_pieces(folder, "random", self.random)
        weights = self._pieces(self.parts.weights())
        return {"tensors": tensors, "weights": state.write_pieces(folder, f"{WEIGHTS}{stem}", weights)}

    def _write_model(self, folder: Path, divided: Mapping[str, Any]) -> None:
        """Write the part for everyone into a checkpoint's folder.

        `divided`: the manifest's entries of parameters that no rank has whole; their files are there.
        """
        reader = state.StateReader(folder, divided)
        named = self.parts.model.named_parameters()
        names = {id(parameter): name for name, parameter in named if name in divided}

        def values(parameter: Tensor) -> np.ndarray:
            name = names.get(id(parameter))
            return self.read(parameter) if name is None else reader.read(name)

        with values_from(values):
            self.parts.write_model(folder)
        place("checkpoint-weights")

    def _pieces(self, parts: Iterable[KeptPart]) -> Iterator[tuple[str, state.Piece]]:
        for one in parts:
            yield one.name, state.Piece(self.read(one.tensor), one.box.offset, one.whole)
