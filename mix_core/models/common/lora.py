"""Low-rank adapters of a model's linear maps (LoRA, rsLoRA, DoRA), several of them, of which one is in use.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. Kalajdzievski, "A Rank Stabilization
Scaling Factor for Fine-Tuning with LoRA", 2023. Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation",
2024. adapter_files.py reads and writes them.

Of a map that ranks divide, each has the matching part of the adapter: of `up` and `magnitude` where outputs
are divided, of `down` where inputs are. The rest every rank has whole, with a gradient in parts.

Shapes: I input features, O output features, R rank, `...` any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn

from mix_core import ops
from mix_core.models.common.layers import Linear
from mix_core.models.common.parts import Box, held_box, is_part, mark_part, mark_shared, whole_shape
from mix_core.models.common.random import SampleRandom, named_generator
from mix_core.models.common.recompute import recompute
from mix_core.models.common.weights import set_whole
from mix_core.ops.dtypes import cast, widened
from mix_core.ops.low_rank import AdaptedMatrix, Matrix
from mix_core.ops.matmul_int8 import Int8Matrix

_PLACES = 1 << 20
"""Where the numbers under which adapters draw begin; below are those of the decoder's layers."""


@dataclass(frozen=True, kw_only=True)
class LoRASettings:
    """What an adapter's configuration says of all its maps."""

    rank: int
    alpha: float
    dropout: float = 0.0
    """Share of a map's inputs that the adapter does not see in training."""
    rslora: bool = False
    """Whether the scale is alpha / sqrt(rank) and not alpha / rank."""
    dora: bool = False
    """Whether each output also learns its length, apart from its direction."""

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LowRank(nn.Layer):
    """One adapter of one map: `down` (I, R), `up` (R, O) and, for DoRA, `magnitude` (O,)."""

    def __init__(
        self, layer: Linear, settings: LoRASettings, down: Tensor | None, random: SampleRandom, place: int
    ) -> None:
        """`down`: another map's, of the same published matrix. `place`: the number under which it draws."""
        super().__init__()
        inputs, outputs = layer.inputs, layer.outputs
        self.settings, self.random, self.place = settings, random, place
        self.down = self.create_parameter([inputs, settings.rank]) if down is None else down
        self.up = self.create_parameter([settings.rank, outputs])
        self.magnitude = self.create_parameter([outputs]) if settings.dora else None
        self._sum: Callable[[Tensor], Tensor] | None = None
        """Sums over the ranks that have the map's other inputs, in place."""
        if is_part(layer.weight):
            self._mark(layer)

    def _mark(self, layer: Linear) -> None:
        """Note what is a part as the map's is, and what is whole with a gradient in parts."""
        rank, (first_input, first_output) = self.settings.rank, held_box(layer.weight).offset
        inputs, outputs = whole_shape(layer.weight)
        if layer.inputs < inputs:
            self._sum = layer.across.sum_
            mark_part(self.down, Box((first_input, 0), (layer.inputs, rank)), (inputs, rank))
            shared = [self.up, self.magnitude]
        else:
            mark_part(self.up, Box((0, first_output), (rank, layer.outputs)), (rank, outputs))
            if self.magnitude is not None:
                mark_part(self.magnitude, Box((first_output,), (layer.outputs,)), (outputs,))
            shared = [self.down]
        for parameter in shared:
            if parameter is not None:
                mark_shared(parameter)

    def matrix(self, base_IO: Tensor | Int8Matrix, *, training: bool) -> AdaptedMatrix:
        """What `ops.linear` takes. A base in 8 bits takes no `magnitude`."""
        gain_O = None
        if self.magnitude is not None:
            gain_O = widened(self.magnitude) / self.lengths(base_IO)
        low = self._low_of_dropped if training and self.settings.dropout > 0.0 else None
        return AdaptedMatrix(base_IO, self.down, self.up, self.settings.scale, gain_O, low)

    @paddle.no_grad()
    def lengths(self, weight_IO: Tensor) -> Tensor:
        """Of each output's weights with the low-rank part added (O,), float32; a constant going backward.

        From products of rank R, so that no second matrix (I, O) is made (section 4.3 of the paper lets the
        gradient pass the length by).
        """
        weight_IO, down_IR, up_RO = widened(weight_IO), widened(self.down), widened(self.up)
        scale = self.settings.scale
        across_RO = paddle.matmul(down_IR, weight_IO, transpose_x=True)
        within_RO = paddle.matmul(paddle.matmul(down_IR, down_IR, transpose_x=True), up_RO)
        low_rank_O = paddle.sum(up_RO * (across_RO * (2.0 * scale) + within_RO * scale**2), axis=0)
        squares_O = paddle.sum(weight_IO * weight_IO, axis=0) + low_rank_O
        if self._sum is not None:
            squares_O = self._sum(squares_O)  # each term is a sum over inputs
        return paddle.sqrt(paddle.clip(squares_O, min=1e-24))

    @paddle.no_grad()
    def merged(self, weight_IO: Tensor) -> Tensor:
        """The one matrix that does what map and adapter do, float32."""
        low_rank_IO = paddle.matmul(widened(self.down), widened(self.up)) * self.settings.scale
        merged_IO = widened(weight_IO) + low_rank_IO
        if self.magnitude is None:
            return merged_IO
        lengths_O = paddle.sqrt(paddle.sum(merged_IO * merged_IO, axis=0))
        return merged_IO * (widened(self.magnitude) / lengths_O)

    def _low_of_dropped(self, x: Tensor) -> Tensor:
        """``dropped(x) @ down``; x and a bit for each of its numbers are kept for going back."""
        dropped = _Dropped(self.random, self.place, self.settings.dropout, self.down)
        return recompute(lambda x: ops.linear(dropped(x), self.down), x)


class _Dropped:
    """Drops the same numbers at each call; they are drawn at the first, for all inputs of the map."""

    def __init__(self, random: SampleRandom, place: int, dropout: float, down: Tensor) -> None:
        self._draw = partial(random.keep, place, dropout=dropout)
        self._dropout = dropout
        self._inputs, self._here = whole_shape(down)[0], held_box(down).slices[0]
        self._bits: np.ndarray | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._bits is None:
            shape = (math.prod(x.shape[:-1]), self._inputs)
            self._bits = np.packbits(self._draw(shape=shape)[:, self._here] != 0.0, axis=1)
        kept = np.unpackbits(self._bits, axis=1, count=x.shape[-1])
        keep = paddle.to_tensor(kept.astype(np.float32) / np.float32(1.0 - self._dropout))
        return x * cast(keep, x.dtype).reshape(x.shape)


class Adapters(nn.LayerList):
    """Those of one map; `names` run beside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.used: LowRank | None = None

    def matrix(self, layer: Linear) -> Matrix:
        base = layer.base
        return base if self.used is None else self.used.matrix(base, training=layer.training)

    def use(self, name: str | None) -> None:
        """Let this one take part, or none where the map has none of that name."""
        # set past Paddle's bookkeeping of layers, which would give its parameters a second name
        object.__setattr__(self, "used", self[self.names.index(name)] if name in self.names else None)


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a model that an adapter can change."""

    path: str
    """In the model."""
    name: str
    """Of the published module; several maps share it where the model splits a published matrix."""
    layer: Linear
    in_decoder: str | None = None
    """Its path within the decoder, if it is there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(inputs, outputs) of the model's map, of which a rank may have a part."""
        layer = self.layer
        return (layer.inputs, layer.outputs) if layer.weight is None else whole_shape(layer.weight)


def linear_maps(model: nn.Layer, published_name: Callable[[str], str] = str) -> list[LinearMap]:
    """All that have a published module of their own or a part of one, in the model's order."""
    decoder = getattr(model, "model", None)
    inside = {} if decoder is None else {id(layer): path for path, layer in decoder.named_sublayers()}
    maps = []
    for path, layer in model.named_sublayers():
        if isinstance(layer, Linear):
            published = published_name(f"{path}.weight")
            if published.endswith(".weight"):
                name = published.removesuffix(".weight")
                maps.append(LinearMap(path, name, layer, inside.get(id(layer))))
    return maps


def adapted_maps(model: nn.Layer, published_name: Callable[[str], str] = str) -> list[LinearMap]:
    """Those maps that have adapters."""
    return [one for one in linear_maps(model, published_name) if one.layer.adapters is not None]


def add_adapter(
    model: nn.Layer,
    maps: list[LinearMap],
    name: str,
    settings: LoRASettings,
    ranks: dict[str, int] | None = None,
) -> None:
    """Give each of the maps an adapter of this name, with zeros in it.

    Parts of one published matrix share `down`, so that they are one adapter of it. `ranks`: those that differ
    from the settings', by published module.
    """
    if settings.dropout and model.random is None:
        model.random = SampleRandom()
    places = {one.path: place for place, one in enumerate(linear_maps(model), _PLACES)}
    downs: dict[str, Tensor] = {}
    for one in maps:
        own = settings
        if ranks and one.name in ranks:
            own = LoRASettings(**{**vars(settings), "rank": ranks[one.name]})
        adapter = LowRank(one.layer, own, downs.get(one.name), model.random, places[one.path])
        downs[one.name] = adapter.down
        if one.layer.adapters is None:
            one.layer.adapters = Adapters()
        one.layer.adapters.append(adapter)
        one.layer.adapters.names.append(name)
    use_adapter(model, name)


def of_name(maps: list[LinearMap], name: str) -> Iterator[tuple[LinearMap, LowRank]]:
    """The maps that have an adapter of this name, with it."""
    for one in maps:
        if one.layer.adapters is not None and name in one.layer.adapters.names:
            yield one, one.layer.adapters[one.layer.adapters.names.index(name)]


@paddle.no_grad()
def init_adapter(maps: list[LinearMap], name: str, seed: int) -> None:
    """First values: `down` uniform within 1 / sqrt(I), `up` zero, `magnitude` the map's own lengths.

    The model then answers as it did without the adapter. Drawn by seed and published name.
    """
    drawn: set[str] = set()
    for one, adapter in of_name(maps, name):
        if one.name not in drawn:
            drawn.add(one.name)
            shape = whole_shape(adapter.down)
            limit = shape[0] ** -0.5
            generator = named_generator(seed, f"{one.name}.lora_A.weight")
            set_whole(adapter.down, generator.uniform(-limit, limit, shape).astype(np.float32))
        adapter.up.set_value(np.zeros(adapter.up.shape, np.float32))
        if adapter.magnitude is not None:
            adapter.magnitude.set_value(adapter.lengths(one.layer.weight))


def use_adapter(model: nn.Layer, name: str | None) -> None:
    """Let the adapters of this name take part, all others not; None: none."""
    for one in adapted_maps(model):
        one.layer.adapters.use(name)


def adapter_names(model: nn.Layer) -> list[str]:
    """Of all maps, in the order in which they came."""
    return list(dict.fromkeys(name for one in adapted_maps(model) for name in one.layer.adapters.names))


@paddle.no_grad()
def merge_adapter(model: nn.Layer) -> None:
    """Bring what the adapter in use does into the weights, and take all adapters away."""
    for one in adapted_maps(model):
        layer = one.layer
        if layer.adapters.used is not None:
            layer.weight.set_value(cast(layer.adapters.used.merged(layer.weight), layer.weight.dtype))
        layer.adapters = None
