"""What the ranks of a run tell each other in a step.

Ranks that have the same part of the model see other samples, each its share of a step's passes, and sum
their gradients. The loss is a sum over label tokens divided by their number in the whole step, so they need
not have equally many tokens, nor a pass at all; they end a step with the same gradients, so the same weights.
Ranks that have a model together see the same samples; the first of them counts these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.device.ranks import Job
from mix_core.models.common.parts import is_shared
from mix_core.training.groups import Groups
from mix_core.training.layout import MODEL, STREAM, Layout
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
        self.layout = layout or Layout(job.ranks)
        self.sharding: Sharding | None = None
        if job.ranks > 1:
            dist.init_parallel_env()
        self.groups, self.scatters = Groups(self.layout, job), scatters
        self._streams = self.groups.along(*STREAM)
        self._model = self.groups.along(*MODEL)
        self._counts_samples = self.groups.index(MODEL) == 0
        """Whether this rank is the first of those that see the same samples."""
        if self.layout.stage:
            self.sharding = Sharding(self.groups, scatters=scatters)

    @property
    def leads(self) -> bool:
        """Whether this rank writes what the run leaves."""
        return self.job.leads

    @property
    def evaluates(self) -> bool:
        """Whether this rank takes part in evaluating: the first does, and who has the model with it."""
        return self.layout.stream(self.job.rank) == 0 and self.groups.place.pipeline == 0

    def totals(self, counts: Iterable[int]) -> list[int]:
        """Whole numbers below 2^31, each summed over all ranks."""
        counts = [int(count) for count in counts]
        if self.job.ranks == 1:
            return counts
        both = paddle.to_tensor(np.array(counts, np.int32))  # some chips sum no 64 bits
        dist.all_reduce(both)
        return [int(total) for total in both.numpy()]

    def totals_of_samples(self, counts: Iterable[int]) -> list[int]:
        """As `totals`, of what ranks count that see the same samples: each sample counts once."""
        return self.totals(count if self._counts_samples else 0 for count in counts)

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

    def over_model(self, square: Tensor) -> Tensor:
        """A sum over what this rank has of the model (1,) -> that over the whole model."""
        if self.groups.size(*MODEL) > 1:
            dist.all_reduce(square, group=self._model)
        return square

    @paddle.no_grad()
    def sum_passes(self, optimizer: AdamW, loss: Tensor | None) -> Tensor:
        """Sum every gradient over the ranks that have the same parameters, in place.

        loss: of this rank's passes; None where it has none, or where another one has the loss of the model
        that they have together. -> the sum of all samples' losses, on every rank. A parameter that has a
        gradient on some ranks only (the vision tower, where a rank saw text alone) counts as zero on the
        others; one that has none on any rank keeps having none.
        """
        if self.job.ranks == 1 and loss is not None:
            return loss
        counts = loss is not None and self.groups.place.tensor == 0
        total = loss.astype("float32").reshape([1]) if counts else paddle.zeros([1])
        dist.all_reduce(total)
        in_parts = isinstance(optimizer, ShardedAdamW) and optimizer.sharding.stage > 1
        if not in_parts:
            self._sum_tied(optimizer)
        if isinstance(optimizer, (ShardedAdamW, SummingAdamW)):
            optimizer.sum_over_ranks()
        else:
            self._sum_gradients(optimizer)
        if in_parts:
            self._sum_tied(optimizer)
        self._sum_shared(optimizer)
        return total

    def _sum_tied(self, optimizer: AdamW) -> None:
        """Of a tied head, over both stages of a pipeline that hold it."""
        if optimizer.stage is not None and (name := optimizer.stage.tied) is not None:
            optimizer.stage.sum_tied(optimizer.ensure_summed(name))

    def _sum_shared(self, optimizer: AdamW) -> None:
        """Of parameters that are whole on ranks which see some of the tokens each."""
        names = {name for name, parameter in optimizer.named_parameters() if is_shared(parameter)}
        found = [one for name, one in optimizer.summed().items() if name in names and one is not None]
        if found:
            _sum_joined(found, self.groups.along("tensor"))

    def have(self, flags: Iterable[bool]) -> list[int]:
        """How many of the ranks with the same parameters say yes, for each of these."""
        found = list(flags)
        if self.layout.streams == 1 or not found:
            return [int(flag) for flag in found]
        both = paddle.to_tensor(np.array(found, np.int32))
        dist.all_reduce(both, group=self._streams)
        return [int(total) for total in both.numpy()]

    def _sum_gradients(self, optimizer: AdamW) -> None:
        if self.layout.streams == 1:
            return
        have = self.have(gradient is not None for gradient in optimizer.gradients().values())
        for (name, _), ranks_with in zip(optimizer.named_parameters(), have):
            if ranks_with:
                optimizer.ensure_gradient(name)
        bucket: list[Tensor] = []
        for gradient in optimizer.gradients().values():
            if gradient is None:
                continue
            bucket.append(gradient)
            if sum(4 * int(one.size) for one in bucket) >= BUCKET_BYTES:
                _sum_joined(bucket, self._streams)
                bucket = []
        if bucket:
            _sum_joined(bucket, self._streams)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.job.ranks > 1:
            dist.barrier()


def _sum_joined(gradients: list[Tensor], group: Any) -> None:
    """Sum float32 gradients over a group's ranks in one message, in place."""
    if len(gradients) == 1:
        dist.all_reduce(gradients[0], group=group)
        return
    joined = paddle.concat([gradient.reshape([-1]) for gradient in gradients])
    dist.all_reduce(joined, group=group)
    parts = paddle.split(joined, [int(gradient.size) for gradient in gradients])
    for gradient, part in zip(gradients, parts):
        paddle.assign(part.reshape(gradient.shape), output=gradient)
