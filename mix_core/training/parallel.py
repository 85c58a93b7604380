"""Data parallel: every rank has the whole model and its share of a step's passes; sums go over all ranks.

The loss is a sum over label tokens divided by their number in the whole step, so ranks need not have equally
many tokens, nor a pass at all. All ranks end a step with the same gradients, so with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.device.ranks import Job
from mix_core.training.layout import Layout
from mix_core.training.sharded_optimizer import ShardedAdamW
from mix_core.training.sharding import Sharding
from mix_core.training.summing import SummingAdamW

if TYPE_CHECKING:
    from mix_core.training.optimizer import AdamW

BUCKET_BYTES = 32 << 20
"""Gradients are joined into messages of about this size: a small message costs as much as its latency."""


class Ranks:
    """The ranks of a run. Of one rank, every method does nothing."""

    def __init__(self, job: Job, layout: Layout | None = None, *, scatters: bool = True) -> None:
        """Joins the other ranks, which wait for this one to do so. `scatters`: of `Sharding`."""
        self.job = job
        self.sharding: Sharding | None = None
        if job.ranks > 1:
            dist.init_parallel_env()
        if layout is not None and layout.stage:
            self.sharding = Sharding(layout.stage, layout.sharing, job, scatters=scatters)

    @property
    def leads(self) -> bool:
        """Whether this rank writes what the run leaves."""
        return self.job.leads

    def totals(self, counts: Iterable[int]) -> list[int]:
        """Whole numbers below 2^31, each summed over all ranks."""
        counts = [int(count) for count in counts]
        if self.job.ranks == 1:
            return counts
        both = paddle.to_tensor(np.array(counts, np.int32))  # some chips sum no 64 bits
        dist.all_reduce(both)
        return [int(total) for total in both.numpy()]

    def missing(self, passes: int) -> int:
        """How many passes fewer than some other rank this one has in a step."""
        if self.job.ranks == 1:
            return 0
        return int(self.most(np.array([passes], np.int32))[0]) - passes

    def most(self, values: np.ndarray) -> np.ndarray:
        """int32 values -> the largest of all ranks at each place."""
        highest = paddle.to_tensor(values)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        return highest.numpy()

    @paddle.no_grad()
    def sum_passes(self, optimizer: AdamW, loss: Tensor | None) -> Tensor:
        """Sum every gradient over all ranks in place, and the loss, which is None on a rank without a pass.

        A parameter that has a gradient on some ranks only (the vision tower, where a rank saw text alone)
        counts as zero on the others; one that has none on any rank keeps having none.
        """
        if self.job.ranks == 1 and loss is not None:
            return loss
        total = paddle.zeros([1]) if loss is None else loss.astype("float32").reshape([1])
        dist.all_reduce(total)
        if isinstance(optimizer, (ShardedAdamW, SummingAdamW)):
            optimizer.sum_over_ranks()
        else:
            self._sum_gradients(optimizer)
        return total

    def _sum_gradients(self, optimizer: AdamW) -> None:
        have = self.totals(gradient is not None for gradient in optimizer.gradients().values())
        for (name, _), ranks_with in zip(optimizer.named_parameters(), have):
            if ranks_with:
                optimizer.ensure_gradient(name)
        bucket: list[Tensor] = []
        for gradient in optimizer.gradients().values():
            if gradient is None:
                continue
            bucket.append(gradient)
            if sum(4 * int(one.size) for one in bucket) >= BUCKET_BYTES:
                _sum_joined(bucket)
                bucket = []
        if bucket:
            _sum_joined(bucket)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.job.ranks > 1:
            dist.barrier()


def _sum_joined(gradients: list[Tensor]) -> None:
    """Sum float32 gradients over all ranks in one message, in place."""
    if len(gradients) == 1:
        dist.all_reduce(gradients[0])
        return
    joined = paddle.concat([gradient.reshape([-1]) for gradient in gradients])
    dist.all_reduce(joined)
    parts = paddle.split(joined, [int(gradient.size) for gradient in gradients])
    for gradient, part in zip(gradients, parts):
        paddle.assign(part.reshape(gradient.shape), output=gradient)
