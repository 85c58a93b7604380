"""The adapters of a loaded model: put on from files, switched, written to files.

Shapes: I input features, O output features, R rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common import adapter_files as files
from mix_core.models.common.int8 import round_matrix
from mix_core.models.common.layers import Linear
from mix_core.models.common.lora import (
    LinearMap,
    LoRASettings,
    LowRank,
    add_adapter,
    linear_maps,
    of_name,
    use_adapter,
)
from mix_core.models.common.parts import held_box, whole_shape
from mix_core.models.common.tensor_files import Outgoing, StoredTensor, write_file
from mix_core.models.common.weights import (
    STORED_AS,
    AnySlot,
    host_values,
    parameters_of,
    set_whole,
    slots_of,
)
from mix_core.models.registry import ModelFamily
from mix_core.ops.dtypes import cast, widened


class AdapterSet:
    """Named adapters of one model, of which one is in use, or none.

    An adapter may bring parameters that learned as a whole (a projector, a tower); they change places with
    the model's own when it comes into use.
    """

    def __init__(self, model: Any, family: ModelFamily) -> None:
        self.model, self.family = model, family
        self.maps = linear_maps(model, family.published_name)
        own = {name for name, _ in model.named_parameters()}
        slots = (family.slots or slots_of)(model)
        self.slots: dict[str, AnySlot] = {
            family.published_name(name) if name in own else name: slot for name, slot in slots.items()
        }
        """By published name."""
        self.names: list[str] = []
        self.used: str | None = None
        self._whole: dict[str, dict[str, StoredTensor]] = {}
        self._own: dict[str, list[tuple[Tensor, np.ndarray]]] = {}
        """The model's parameters that some adapter brings as a whole, with their own values here in float32:
        the model may become narrower meanwhile."""

    def add(self, name: str, adapter: files.StoredAdapter) -> None:
        """Put an adapter on, and let it be in use.

        Raises:
            WeightsError: it was made for another model: names, shapes or weights differ.
            BadInputError: there is one of this name.
        """
        if name in self.names:
            raise BadInputError(f"two adapters are called {name}; give one another name, as NAME=FOLDER")
        adapter = adapter.renamed(self.family.stored_name)
        groups = self._fitting(adapter)
        chosen = [one for one in self.maps if one.name in groups]
        settings = LoRASettings(
            rank=adapter.rank,
            alpha=adapter.alpha,
            dropout=adapter.dropout,
            rslora=adapter.rslora,
            dora=adapter.dora,
        )
        ranks = {module: parts[files.DOWN].shape[0] for module, parts in adapter.maps.items()}
        add_adapter(self.model, chosen, name, settings, ranks)
        self._fill_all(name, adapter)
        self._whole[name] = adapter.whole
        for parameter in adapter.whole:
            if parameter not in self._own:
                own = parameters_of([self.slots[parameter]])
                self._own[parameter] = [(one, widened(one).numpy()) for one in own]
        self.names.append(name)
        self.use(name)

    def refill(self, name: str, adapter: files.StoredAdapter) -> None:
        """Take other values for an adapter that is in use, and for what learned as a whole beside it."""
        adapter = adapter.renamed(self.family.stored_name)
        self._fill_all(name, adapter)
        for parameter, stored in adapter.whole.items():
            self.slots[parameter].fill(stored)

    def _fill_all(self, name: str, adapter: files.StoredAdapter) -> None:
        for one, low_rank in of_name(self.maps, name):
            self._fill(one, low_rank, adapter.maps[one.name])

    def use(self, name: str | None) -> None:
        """Bring an adapter into use; None: the model alone. Raises BadInputError for an unknown name."""
        if name is not None and name not in self.names:
            there = ", ".join(self.names) or "none"
            raise BadInputError(f"no adapter is called {name!r}; there are: {there}")
        use_adapter(self.model, name)
        for parameter in self._whole.get(self.used or "", {}):
            for tensor, values in self._own[parameter]:
                tensor.set_value(cast(paddle.to_tensor(values), tensor.dtype))
        for parameter, stored in self._whole.get(name or "", {}).items():
            self.slots[parameter].fill(stored)
        self.used = name

    def round_bases(self) -> int:
        """Keep the language model's matrices under adapters in 8 bits, for good -> their numbers' count.

        The adapters stay as they are. None can be merged then, and nothing of what was rounded be written.
        Raises WeightsError for a matrix with numbers that are not finite.
        """
        numbers = 0
        for one in self.maps:
            if one.layer.adapters is not None and one.in_decoder is not None:
                self.slots.pop(f"{one.name}.weight", None)
                round_matrix(one.layer, f"{one.path}.weight")
                numbers += one.layer.inputs * one.layer.outputs
        return numbers

    def _fitting(self, adapter: files.StoredAdapter) -> dict[str, list[LinearMap]]:
        """The maps that an adapter changes, by published module. Raises WeightsError."""
        groups: dict[str, list[LinearMap]] = {}
        for one in self.maps:
            if one.name in adapter.maps:
                groups.setdefault(one.name, []).append(one)
        made_for = f"{adapter.folder} is an adapter for another model ({adapter.base})"
        for module, parts in adapter.maps.items():
            if module not in groups:
                raise WeightsError(f"{made_for}: it changes {module}, which this model does not have")
            rank = parts[files.DOWN].shape[0] if parts[files.DOWN].shape else 0
            inputs, outputs = _published_shape(groups[module])
            wanted = {files.DOWN: (rank, inputs), files.UP: (outputs, rank), files.MAGNITUDE: (outputs,)}
            for kind, tensor in parts.items():
                if tensor.shape != wanted[kind] or not rank:
                    raise WeightsError(
                        f"{made_for}: {module}.{kind} has shape {tensor.shape}, this model asks for "
                        f"{wanted[kind]}"
                    )
        for name, tensor in adapter.whole.items():
            if name not in self.slots:
                raise WeightsError(f"{made_for}: it brings {name}, which this model does not have")
            if tensor.shape != self.slots[name].shape:
                expected = self.slots[name].shape
                raise WeightsError(f"{made_for}: {name} has shape {tensor.shape}, this model's is {expected}")
        chosen = [one for group in groups.values() for one in group]
        if adapter.fingerprint not in (None, fingerprint(chosen)):
            raise WeightsError(f"{made_for}: this one has the same shapes and other weights")
        return groups

    def _rows(self, one: LinearMap) -> np.ndarray | slice:
        """Of the published matrix; parts that the family says nothing of stand one below the other."""
        rows = self.family.part_rows(self.model, f"{one.path}.weight")
        if rows is not None:
            return rows
        start = 0
        for part in self.maps:
            if part.path == one.path:
                break
            start += part.shape[1] if part.name == one.name else 0
        return slice(start, start + one.shape[1])

    @paddle.no_grad()
    def _fill(self, one: LinearMap, low_rank: LowRank, parts: dict[str, StoredTensor]) -> None:
        rows = self._rows(one)
        values = {
            low_rank.down: parts[files.DOWN].read_float32().T,
            low_rank.up: parts[files.UP].read_float32()[rows].T,
        }
        if low_rank.magnitude is not None:
            values[low_rank.magnitude] = parts[files.MAGNITUDE].read_float32().reshape(-1)[rows]
        for parameter, value in values.items():
            set_whole(parameter, value)

    def write(
        self,
        folder: Path,
        name: str,
        *,
        base: str,
        fingerprint: str,
        learned: Iterable[str] = (),
        rounded: str | None = None,
    ) -> None:
        """Write the adapter of this name.

        Args:
            base: the model's folder or hub name, for the configuration.
            fingerprint: of the weights it is for, taken before any of them changed.
            learned: parameters of the model that learned as a whole, by published name.
            rounded: how the weights under it are rounded, if they are.
        """
        pairs = list(of_name(self.maps, name))
        modules, whole = self._modules(learned)
        tensors = [*self._low_rank(pairs), *map(self._of_whole, whole)]
        header = {files.FINGERPRINT: fingerprint} | ({files.ROUNDED: rounded} if rounded else {})
        write_file(folder / files.TENSORS, tensors, header)
        targets = list(dict.fromkeys(one.name for one, _ in pairs))
        others = {one.name for one in self.maps} - set(targets)
        text = files.config_text(
            pairs[0][1].settings, base=base, targets=targets, others=others, whole=modules
        )
        (folder / files.CONFIG).write_text(text, encoding="utf-8")

    def tensors(self, name: str, learned: Iterable[str] = ()) -> list[Tensor]:
        """What `write` takes values of."""
        found = [one for _, pair in of_name(self.maps, name) for one in (pair.down, pair.up, pair.magnitude)]
        slots = [self.slots[parameter] for parameter in self._modules(learned)[1]]
        return [one for one in found if one is not None] + parameters_of(slots)

    def _modules(self, learned: Iterable[str]) -> tuple[list[str], list[str]]:
        """Modules that learned as a whole, and their parameters, by published name."""
        modules = files.modules_of(learned, self.slots)
        inside = tuple(f"{module}." for module in modules)
        return modules, [one for one in self.slots if inside and one.startswith(inside)]

    def _low_rank(self, pairs: list[tuple[LinearMap, LowRank]]) -> Iterator[Outgoing]:
        groups: dict[str, list[tuple[LinearMap, LowRank]]] = {}
        for one, low_rank in pairs:
            groups.setdefault(one.name, []).append((one, low_rank))
        for module, parts in groups.items():
            first = parts[0][1]
            dtype, rank = STORED_AS[first.down.dtype], first.settings.rank
            inputs, outputs = _published_shape([one for one, _ in parts])
            shapes = {files.DOWN: (rank, inputs), files.UP: (outputs, rank)}
            if first.magnitude is not None:
                shapes[files.MAGNITUDE] = (outputs,)
            for kind, shape in shapes.items():
                values = partial(self._joined, kind, parts, shape)
                yield Outgoing(f"{files.PREFIX}{module}.{kind}", dtype, shape, values)

    def _joined(
        self, kind: str, parts: list[tuple[LinearMap, LowRank]], shape: tuple[int, ...]
    ) -> np.ndarray:
        if kind == files.DOWN:
            return host_values(parts[0][1].down).T
        values: np.ndarray | None = None
        for one, low_rank in parts:
            own = host_values(low_rank.up if kind == files.UP else low_rank.magnitude).T
            values = np.empty(shape, own.dtype) if values is None else values
            values[self._rows(one)] = own
        assert values is not None
        return values

    def _of_whole(self, name: str) -> Outgoing:
        slot = self.slots[name]
        return Outgoing(f"{files.PREFIX}{name}", STORED_AS[slot.dtype], slot.shape, slot.values)


def _published_shape(group: list[LinearMap]) -> tuple[int, int]:
    """(inputs, outputs) of a published matrix, of which the maps are the parts."""
    return group[0].shape[0], sum(one.shape[1] for one in group)


@paddle.no_grad()
def fingerprint(maps: list[LinearMap]) -> str:
    """Tells the weights under an adapter from others: of each map the first output's, rounded to bfloat16.

    Rounded, so that a model published in float32 and its copy in bfloat16 are the same. Ranks that divide the
    maps call this together.
    """
    digest = hashlib.sha256()
    for one in sorted(maps, key=lambda one: one.path):
        digest.update(one.name.encode() + _first_output(one.layer).tobytes())
    return digest.hexdigest()


def _first_output(layer: Linear) -> np.ndarray:
    """The first output's weights (I,), bfloat16 as uint16; of a divided map from all its ranks."""
    bits_I = layer.weight[:, 0].astype("float32").astype("bfloat16").numpy()
    if layer.across is None:
        return bits_I
    box, (inputs, _) = held_box(layer.weight), whole_shape(layer.weight)
    whole_I = np.zeros(inputs, np.int32)
    if box.offset[1] == 0:
        whole_I[box.slices[0]] = bits_I
    return layer.across.sum_(paddle.to_tensor(whole_I)).numpy().astype(np.uint16)
