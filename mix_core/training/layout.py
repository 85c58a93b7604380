"""What the keys about several devices ask for, before any of them is looked at.

Ranks are numbered so that those which talk most are neighbours, outermost axis first: pipeline, data,
sharding, tensor. Of 8 ranks with tensor 2 and pipeline 2, ranks 0 to 3 are the first stage, and 0 and 1 share
its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mix_core.device.ranks import Job
from mix_core.errors import ConfigError
from mix_core.training.pipeline.split import lists_of

if TYPE_CHECKING:
    from mix_core.config import RunConfig

STAGES = {"": 0, "none": 0, "stage1": 1, "stage2": 2, "stage3": 3}
AXES = ("pipeline", "data", "sharding", "tensor")
"""Outermost first."""
STREAM = ("data", "sharding")
"""Ranks that differ in these alone have the same parameters and see other samples."""
MODEL = ("pipeline", "tensor")
"""Ranks that differ in these alone see the same samples and have one model together."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands on each axis."""

    pipeline: int = 0
    data: int = 0
    sharding: int = 0
    tensor: int = 0


@dataclass(frozen=True)
class Layout:
    """How the ranks of a run share its work."""

    ranks: int = 1
    stage: int = 0
    """Of sharding; 0: every rank holds everything of its part of the model."""
    sharing: int = 1
    """Ranks that hold the training state together. Others have the same again."""
    tensor: int = 1
    """Ranks among which each layer is divided."""
    pipeline: int = 1
    """Stages among which the layers are divided."""

    @property
    def streams(self) -> int:
        """Groups of ranks that see different samples."""
        return self.ranks // (self.tensor * self.pipeline)

    @property
    def sizes(self) -> dict[str, int]:
        """Ranks along each axis."""
        data = self.streams // self.sharing
        return dict(zip(AXES, (self.pipeline, data, self.sharing, self.tensor)))

    def place(self, rank: int) -> Place:
        """Where a rank stands."""
        found: dict[str, int] = {}
        for axis, size in reversed(self.sizes.items()):
            rank, found[axis] = divmod(rank, size)
        return Place(**found)

    def stream(self, rank: int) -> int:
        """Which of the streams of samples a rank sees."""
        place = self.place(rank)
        return place.data * self.sharing + place.sharding

    def job(self, rank: int) -> Job:
        """The rank as the data sees it: one of as many as there are streams."""
        return Job(self.stream(rank), self.streams)

    @property
    def writers(self) -> list[int]:
        """The ranks that hold different parts of a run's state; the others have the same again."""
        return [rank for rank in range(self.ranks) if self.place(rank).data == 0]

    def groups(self, along: Sequence[str]) -> list[list[int]]:
        """All ranks, those that differ in these axes alone in one list, in the order of ranks."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.ranks):
            place = self.place(rank)
            key = tuple(getattr(place, axis) for axis in AXES if axis not in along)
            found.setdefault(key, []).append(rank)
        return list(found.values())

    def group(self, rank: int, along: Sequence[str]) -> list[int]:
        """The ranks that differ from this one in these axes alone, itself among them."""
        return next(group for group in self.groups(along) if rank in group)


def layout_of(config: RunConfig, ranks: int) -> Layout:
    """The layout of a run on this many devices.

    Raises:
        ConfigError: the degrees do not multiply to the number of devices, or a key lacks its other one.
    """
    tensor, pipeline = max(1, config.tensor_parallel_degree), max(1, config.pipeline_parallel_degree)
    if ranks % (tensor * pipeline):
        raise ConfigError(
            f"tensor_parallel_degree {tensor} times pipeline_parallel_degree {pipeline} does not divide "
            f"{ranks}, the number of devices; give degrees whose product does, or other --devices"
        )
    _check_pipeline(config, pipeline)
    layout = Layout(ranks, *_sharing(config, ranks // (tensor * pipeline)), tensor, pipeline)
    if max(layout.sharing, tensor, pipeline) > 1 and config.module_stats_steps:
        raise ConfigError(
            "module_stats_steps wants whole gradients, and no rank has them where devices share a model or "
            "its training state; leave one out"
        )
    if ranks > 1 and config.optimizer_in_backward:
        raise ConfigError(
            f"optimizer_in_backward on {ranks} devices: gradients are summed over devices before parameters "
            "are updated; leave the key out (sharding stage2 shares gradients)"
        )
    for key in ("weight_quantize_algo", "overlap_grad_reduce"):
        if tensor * pipeline > 1 and getattr(config, key):
            raise ConfigError(
                f"{key} with tensor_parallel_degree {tensor} and pipeline_parallel_degree {pipeline} is not "
                "built yet; leave the key out"
            )
    return layout


def _check_pipeline(config: RunConfig, stages: int) -> None:
    """Whether the keys about a pipeline are of one, and of so many stages. Raises ConfigError."""
    if stages > 1:
        lists_of(config, stages)
        return
    named = [key for key in ("vit_pp_layers", "llm_pp_layers") if getattr(config, key) is not None]
    if named or config.virtual_pp_degree > 1:
        key = named[0] if named else "virtual_pp_degree"
        raise ConfigError(
            f"{key} is of a pipeline, and pipeline_parallel_degree is 1; give that too, or leave {key} out"
        )


def _sharing(config: RunConfig, streams: int) -> tuple[int, int]:
    """The stage of sharding, and how many ranks share, of those that see other samples."""
    stage, degree = STAGES[config.sharding], config.sharding_parallel_degree
    if stage == 0:
        if degree > 1:
            raise ConfigError(
                f"sharding_parallel_degree is {degree} and sharding names no stage; give one of "
                f"{', '.join(name for name, number in STAGES.items() if number)}, or leave the degree out"
            )
        return 0, 1
    degree = streams if degree < 1 else degree
    if streams % degree:
        raise ConfigError(
            f"sharding_parallel_degree {degree} times a whole number of replicas does not make {streams}, "
            "the number of devices that see different samples; give a divisor of it, or -1 for all"
        )
    return (stage, degree) if degree > 1 else (0, 1)
