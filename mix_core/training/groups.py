"""The groups of Paddle's engine that the ranks of a layout talk in, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle.distributed as dist

from mix_core.device.ranks import Job
from mix_core.training.layout import Layout


class Groups:
    """All ranks have to ask for the same groups in the same order: making one is a collective."""

    def __init__(self, layout: Layout, job: Job) -> None:
        self.layout, self.job = layout, job
        self.place = layout.place(job.rank)
        """Of this rank."""
        self._made: dict[tuple[int, ...], Any] = {tuple(range(job.ranks)): None}

    def along(self, *axes: str) -> Any:
        """This rank's group of those that differ in these axes alone; None stands for all ranks.

        Use `size` to see whether there is anybody to talk to.
        """
        for ranks in self.layout.groups(axes):
            if len(ranks) > 1 and tuple(ranks) not in self._made:
                self._made[tuple(ranks)] = dist.new_group(ranks)
        return self._made.get(tuple(self.layout.group(self.job.rank, axes)))

    def size(self, *axes: str) -> int:
        """Ranks in that group."""
        return len(self.layout.group(self.job.rank, axes))

    def index(self, axes: Sequence[str]) -> int:
        """This rank's place in that group."""
        return self.layout.group(self.job.rank, axes).index(self.job.rank)
