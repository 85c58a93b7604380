"""AdamW whose gradients are summed over ranks while the last pass of a step goes back.

Gradients travel in messages of some parameters, last ones first: a message leaves when its parameters have
their gradients of all passes, and the device computes on meanwhile (Li et al., "PyTorch Distributed", 2020).
Messages go in one order on all ranks; one that lacks gradients on some rank (a step of text alone, fewer
passes) leaves there when the pass has ended, with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.ops.dtypes import NARROW
from mix_core.training.optimizer import AdamW
from mix_core.training.sharding import Bucket, InOrder, buckets_of, forward_order

if TYPE_CHECKING:
    from mix_core.training.parallel import Ranks


@dataclass
class _Message:
    """A sum that is on its way."""

    bucket: Bucket
    values: Tensor
    """Float32 gradients one after another; their sums once `task` has ended."""
    task: Any


class SummingAdamW(AdamW):
    """As AdamW; every rank must make the same calls."""

    def __init__(self, model: paddle.nn.Layer, ranks: Ranks, **options: Any) -> None:
        super().__init__(model, ranks=ranks, **options)
        self._ranks = ranks
        self._parameters = dict(self._named)
        names = forward_order(model, self._parameters)
        self.buckets = buckets_of({name: self._parameters[name].shape for name in names})
        self._sending = InOrder(self.buckets, self._send)
        self._totals: dict[str, Tensor] = {}
        """Sums over all ranks."""
        self._messages: list[_Message] = []
        self._is_last = False
        """Whether gradients that arrive are the last ones of the step."""
        self._seen: set[str] = set()
        """Parameters that had a gradient in this step."""
        for name, parameter in self._named:
            parameter._register_backward_hook(self._arriving(name))

    def before_last_pass(self) -> None:
        self._is_last = True

    def _arriving(self, name: str) -> Callable[..., None]:
        """What is called when a parameter has its gradient of a pass, after narrow ones have been summed."""

        def note(*_: object) -> None:
            if self._is_last:
                self._sending.arrived(name)

        return note

    @paddle.no_grad()
    def _send(self, bucket: Bucket) -> None:
        """Let a message go, and forget its gradients here."""
        flat = []
        for name in bucket.names:
            parameter = self._parameters[name]
            gradient = self._sums.pop(name, None) if parameter.dtype in NARROW else parameter.grad
            if gradient is None:
                flat.append(paddle.zeros([int(parameter.size)]))
            else:
                self._seen.add(name)
                flat.append(gradient.reshape([-1]))
        values = paddle.concat(flat)
        for name in bucket.names:
            self._parameters[name].clear_gradient(False)
        self._messages.append(_Message(bucket, values, dist.all_reduce(values, sync_op=False)))

    def after_passes(self) -> None:
        """Send what is left, before ranks tell each other anything else."""
        self._sending.send_rest()
        self._is_last = False

    @paddle.no_grad()
    def sum_over_ranks(self) -> None:
        """Of all passes of a step: afterwards `summed` has the sums over all ranks."""
        # a layer that is computed again twice in one pass gives its parameters gradients twice
        while self._ranks.totals([any(one is not None for one in self.gradients().values())])[0]:
            self.after_passes()
        for message in self._messages:
            message.task.wait()
            sizes = [int(self._parameters[name].size) for name in message.bucket.names]
            parts = paddle.split(message.values, sizes) if len(sizes) > 1 else [message.values]
            for name, shape, part in zip(message.bucket.names, message.bucket.shapes, parts):
                part = part.reshape(list(shape))
                self._totals[name] = self._totals[name].add_(part) if name in self._totals else part
        self._messages.clear()
        names = [name for name, _ in self._named]
        counts = self._ranks.totals(name in self._seen for name in names)
        # in the model's order, so that the norm of all is the same sum as without messages
        self._totals = {name: self._totals[name] for name, ranks_with in zip(names, counts) if ranks_with}

    def summed(self) -> dict[str, Tensor]:
        return self._totals

    def clear_grad(self) -> None:
        super().clear_grad()
        self._totals.clear()
        self._seen.clear()
        self._sending.forget()
