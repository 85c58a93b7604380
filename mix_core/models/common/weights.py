"""Weights between a model and the published files, and random first values.

A model's parameters bear the published names. What differs is layout: files hold a linear map as (out, in),
Paddle computes with (in, out). A family adds the parameters that are stored in yet another form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core.errors import WeightsError
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.common.layers import Linear
from mix_core.models.common.parts import held_box, is_part, whole_shape
from mix_core.models.common.random import named_generator
from mix_core.models.common.tensor_files import (
    MODEL,
    FileNames,
    Outgoing,
    StoredTensor,
    read_folder,
    write_folder,
)

STORED_AS = {paddle.float32: "F32", paddle.bfloat16: "BF16", paddle.float16: "F16", paddle.float64: "F64"}


_READER: ContextVar[Callable[[Tensor], np.ndarray] | None] = ContextVar("reader", default=None)


@contextmanager
def values_from(reader: Callable[[Tensor], np.ndarray]) -> Iterator[None]:
    """Whatever this thread writes in here takes parameters' values from `reader`, not from the device."""
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)


_FILLER: ContextVar[Callable[[AnySlot, StoredTensor], None] | None] = ContextVar("filler", default=None)


@contextmanager
def filled_by(filler: Callable[[AnySlot, StoredTensor], None]) -> Iterator[None]:
    """Whatever this thread loads in here gets its values by `filler`, one slot after another."""
    token = _FILLER.set(filler)
    try:
        yield
    finally:
        _FILLER.reset(token)


def host_values(parameter: Tensor) -> np.ndarray:
    """A parameter's values, bfloat16 as uint16: from the device, or from where `values_from` says."""
    reader = _READER.get()
    return parameter.numpy() if reader is None else reader(parameter)


@dataclass(frozen=True)
class Slot:
    """One parameter and its published form."""

    parameter: Tensor
    shape: tuple[int, ...]
    """Published shape."""
    linear: bool
    """Whether the parameter is the transpose of the published matrix (leading axis, all others)."""

    def to_parameter(self, published: np.ndarray) -> np.ndarray:
        return published.reshape(published.shape[0], -1).T if self.linear else published

    def to_published(self, values: np.ndarray) -> np.ndarray:
        return (values.T if self.linear else values).reshape(self.shape)

    @property
    def dtype(self) -> Any:
        return self.parameter.dtype

    def fill(self, stored: StoredTensor) -> None:
        """Give the parameter the stored values, or those of its part."""
        _fill(self, stored)

    def wholes(self, stored: StoredTensor) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The parameter with the stored values, whole though the parameter may be a part."""
        yield self.parameter, self.to_parameter(_read(stored, self.dtype))

    def values(self) -> np.ndarray:
        """The parameter in its published form."""
        return self.to_published(host_values(self.parameter))


@dataclass(frozen=True)
class JoinedSlot:
    """Several parameters that a file holds as one matrix or vector, each of them some of its rows."""

    parts: tuple[Slot, ...]
    rows: tuple[np.ndarray, ...]
    """Of the published matrix, for each part in its own order."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> Any:
        return self.parts[0].dtype

    def fill(self, stored: StoredTensor) -> None:
        _fill(self, stored)

    def wholes(self, stored: StoredTensor) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Each parameter with the stored values of its rows."""
        joined = _read(stored, self.dtype)
        for part, rows in zip(self.parts, self.rows):
            yield part.parameter, part.to_parameter(joined[rows])

    def values(self) -> np.ndarray:
        return self.joined([part.values() for part in self.parts])

    def joined(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The whole of the parts' values in their published form."""
        whole = np.empty(self.shape, values[0].dtype)
        for rows, of_part in zip(self.rows, values):
            whole[rows] = of_part
        return whole


AnySlot = Slot | JoinedSlot


def _fill(slot: AnySlot, stored: StoredTensor) -> None:
    for parameter, values in slot.wholes(stored):
        set_whole(parameter, values)


def parameters_of(slots: Iterable[AnySlot]) -> list[Tensor]:
    """The parameters behind slots."""
    return [
        part.parameter for slot in slots for part in (slot.parts if isinstance(slot, JoinedSlot) else (slot,))
    ]


def slots_of(model: nn.Layer, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Slot]:
    """A slot for each parameter; `shapes` are the published ones of linear maps stored with more axes."""
    linear = {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, Linear)}
    slots = {}
    for name, parameter in model.named_parameters():
        if ADAPTERS in name:
            continue  # an adapter has files of its own
        shape = whole_shape(parameter)[:: -1 if name in linear else 1]
        slots[name] = Slot(parameter, (shapes or {}).get(name, shape), name in linear)
    return slots


def joined_slots(
    slots: Mapping[str, Slot],
    published_name: Callable[[str], str],
    part_rows: Callable[[str], np.ndarray | None] = lambda name: None,
) -> dict[str, AnySlot]:
    """Slots by published name; parameters that share one become one slot.

    `part_rows`: which rows of the published matrix a parameter has; None: they follow those of the parts
    before it.
    """
    members: dict[str, list[str]] = {}
    for name in slots:
        members.setdefault(published_name(name), []).append(name)
    found: dict[str, AnySlot] = {}
    for published, names in members.items():
        parts = tuple(slots[name] for name in names)
        ends = np.cumsum([0, *(part.shape[0] for part in parts)])
        given = [part_rows(name) for name in names]
        rows = [np.arange(*ends[i : i + 2]) if one is None else one for i, one in enumerate(given)]
        found[published] = parts[0] if len(parts) == 1 else JoinedSlot(parts, tuple(rows))
    return found


def load_folder(
    slots: Mapping[str, AnySlot],
    folder: Path,
    rename: Callable[[str], str] = lambda name: name,
    ignore: Callable[[str], bool] = lambda name: False,
) -> None:
    """Fill every slot from the folder's files.

    `rename` turns a file's name into the slot's; names that `ignore` accepts are passed over. Raises
    WeightsError where a weight is missing, of another shape, there twice or not expected.
    """
    fill_slots(slots, read_folder(folder), folder, rename, ignore)


def fill_slots(
    slots: Mapping[str, AnySlot],
    found: Mapping[str, StoredTensor],
    folder: Path,
    rename: Callable[[str], str] = lambda name: name,
    ignore: Callable[[str], bool] = lambda name: False,
) -> None:
    """As `load_folder`, from tensors that were found already; `folder` is named in errors."""
    stored: dict[str, StoredTensor] = {}
    for name, tensor in found.items():
        ours = rename(name)
        if ours in stored:
            raise WeightsError(f"{folder} holds {ours} twice, under two of its names ({name} and another)")
        if ours in slots:
            stored[ours] = tensor
        elif not ignore(ours):
            raise WeightsError(
                f"{folder} holds {name}, for which the model has no place; does config.json fit?"
            )
    missing = [name for name in slots if name not in stored]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{folder} lacks the weight {missing[0]}{more}; does config.json fit the weights?")
    for name, slot in slots.items():
        if stored[name].shape != slot.shape:
            raise WeightsError(
                f"{name} has shape {stored[name].shape} in {stored[name].file}, "
                f"config.json asks for {slot.shape}"
            )
    filler = _FILLER.get()
    for name, slot in slots.items():
        if filler is None:
            slot.fill(stored[name])
        else:
            filler(slot, stored[name])


def _read(stored: StoredTensor, dtype: Any) -> np.ndarray:
    """As the bits of bfloat16 where both sides have it, else in float32."""
    return stored.read() if dtype == paddle.bfloat16 and stored.dtype == "BF16" else stored.read_float32()


def set_whole(parameter: Tensor, values: np.ndarray) -> None:
    """Give a parameter these values, of which a part takes its own; bfloat16 as uint16, or float32."""
    if is_part(parameter):
        values = values[held_box(parameter).slices]
    values = np.ascontiguousarray(values)
    if values.dtype == np.float32 and parameter.dtype != paddle.float32:
        parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))
    else:
        parameter.set_value(values)


def save_folder(
    slots: Mapping[str, AnySlot], folder: Path, max_shard_bytes: int, names: FileNames = MODEL
) -> None:
    """Write every slot in its published form and the parameter's dtype."""
    outgoing = [
        Outgoing(name, STORED_AS[slot.dtype], slot.shape, slot.values) for name, slot in slots.items()
    ]
    write_folder(folder, outgoing, max_shard_bytes, names=names)


def fill_random(model: nn.Layer, seed: int, deviation: float) -> None:
    """Draw every matrix from a normal distribution keyed by seed and name; biases stay 0, norms 1."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            values = named_generator(seed, name).standard_normal(whole_shape(parameter), dtype=np.float32)
            set_whole(parameter, values * np.float32(deviation))


def init_weights(model: nn.Layer, seed: int) -> None:
    """`fill_random` as the configuration says, of the whole model or of its decoder."""
    fill_random(model, seed, getattr(model.config, "text", model.config).initializer_range)
