"""AdamW of which every rank holds and updates a part (sharding.py: which, and what ranks tell each other).

Stage 1 sums gradients over ranks once a step; stage 2 while each pass goes back, message by message, so that
only one message's whole gradients are there at a time. Both then update their parts and gather parameters.
Stage 3 leaves parameters in parts too (gathering.py). In a pipeline, ranks that share a stage of it go
through its pieces in one order, and send the messages of a piece each time when it has gone back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor

from mix_core.ops.dtypes import NARROW, cast
from mix_core.training.gathering import Gathering
from mix_core.training.optimizer import AdamW, KeptPart
from mix_core.training.partition import Box
from mix_core.training.sharding import Bucket, InOrder, Sharding, buckets_of, forward_order, rows

if TYPE_CHECKING:
    from mix_core.training.parallel import Ranks


class ShardedAdamW(AdamW):
    """As AdamW, over the parts of this rank. Every rank must make the same calls."""

    def __init__(self, model: paddle.nn.Layer, sharding: Sharding, ranks: Ranks, **options: Any) -> None:
        self.sharding = sharding
        super().__init__(model, ranks=ranks, **options)
        self._parameters = dict(self._named)
        self._pieces: dict[int, list[str]] = {}
        """Names by this stage's piece; without a pipeline all of them in piece 0."""
        for name in forward_order(model, self._parameters):
            self._pieces.setdefault(self._piece_of(name), []).append(name)
        self._piece = 0
        """The one that goes back now."""
        self._parts: dict[str, Tensor] = {}
        """This rank's parts of the gradients' sums."""
        self._seen: set[str] = set()
        """Parameters that had a gradient in this step."""
        self._sending = {
            piece: InOrder(buckets_of({name: self._parameters[name].shape for name in names}), self._send)
            for piece, names in self._pieces.items()
        }
        self._gathering: Gathering | None = None
        self._narrow: dict[str, Tensor] = {}
        """At stage 3, this rank's parts of narrow parameters."""
        if sharding.stage == 3:
            self._narrow = {n: cast(m, d) for n, m, d in self._masters() if d in NARROW}
            local = {name: self._narrow.get(name, master) for name, master, _ in self._masters()}
            self._gathering = Gathering(model, self._parameters, sharding, local, self._send, self._piece_of)
        if sharding.stage == 2:
            for name, parameter in self._named:
                parameter._register_backward_hook(self._arriving(name))

    def _piece_of(self, name: str) -> int:
        return 0 if self.stage is None else self.stage.piece_of(name)

    def _arriving(self, name: str) -> Callable[..., None]:
        """What is called when a parameter has its gradient of a pass, after narrow ones have been summed."""
        piece = self._piece_of(name)

        def arrived(*_: object) -> None:
            if piece == self._piece:  # a tied head's gradient comes in another one, and goes with this
                self._sending[piece].arrived(name)

        return arrived

    def _masters(self) -> Iterator[tuple[str, Tensor, Any]]:
        """(name, this rank's part of the master, the parameter's dtype)."""
        for group in self.groups:
            for name, parameter, master in zip(group.names, group.parameters, group.masters):
                yield name, master, parameter.dtype

    def _box(self, parameter: Tensor) -> Box:
        return self.sharding.box(parameter.shape)

    @paddle.no_grad()
    def _master(self, values: Tensor, box: Box) -> Tensor:
        return rows(values, box).astype("float32").clone()

    @paddle.no_grad()
    def _send(self, bucket: Bucket) -> None:
        """Sum a message's gradients over ranks, add this rank's parts to its sums, and forget the rest."""
        own = self.gradients()
        gradients = [own[name] for name in bucket.names]
        self._seen.update(name for name, gradient in zip(bucket.names, gradients) if gradient is not None)
        for name, part in self.sharding.sum_parts(bucket, gradients).items():
            self._parts[name] = self._parts[name].add_(part) if name in self._parts else part
        for name in bucket.names:
            self._parameters[name].clear_gradient(False)
            self._sums.pop(name, None)

    def after_pass(self) -> None:
        """Send what this rank has no gradients for, so that all ranks have sent the same messages."""
        if self._gathering is not None:
            self._gathering.end()
            self._gathering.send_rest()
            self._gathering.begin()
        elif self.sharding.stage == 2:
            self._send_piece()

    @contextmanager
    def around_piece(self, piece: int, going_back: bool) -> Iterator[None]:
        self._piece = piece
        if self._gathering is not None:
            self._gathering.begin(piece, going_back)
        yield
        if self._gathering is not None:
            self._gathering.end(going_back)
        elif self.sharding.stage == 2 and going_back and piece in self._pieces:
            self._send_piece()

    def _send_piece(self) -> None:
        names, left = self._pieces[self._piece], 1
        while left:
            self._sending[self._piece].send_rest()
            # a layer that is computed again twice in one pass gives its parameters gradients twice
            own = self.gradients()
            (left,) = self._ranks.have([any(own[name] is not None for name in names)])

    def sum_over_ranks(self) -> None:
        """Of all passes of a step: afterwards `summed` has this rank's parts of the sums over all ranks."""
        if self.sharding.stage < 2:
            for sending in self._sending.values():
                sending.send_rest()
        elif self._gathering is not None and self.stage is not None:
            self._gathering.send_rest()
        names = [name for name, _ in self._named]
        have = self._ranks.have(name in self._seen for name in names)
        for name, ranks_with in zip(names, have):
            if not ranks_with:
                self._parts.pop(name, None)

    def summed(self) -> dict[str, Tensor]:
        return self._parts

    @paddle.no_grad()
    def ensure_summed(self, name: str) -> Tensor | None:
        if self.sharding.stage < 2:
            return super().ensure_summed(name)  # asked for before gradients are summed over ranks
        box = self._box(self._parameters[name])
        if name not in self._parts and box.size:
            self._parts[name] = paddle.zeros(list(box.shape))
        return self._parts.get(name)

    def _over_ranks(self, square: Tensor) -> Tensor:
        return super()._over_ranks(self.sharding.total(square.reshape([1])))

    def begin_step(self) -> None:
        if self._gathering is not None:
            self._gathering.begin_step()

    def release(self) -> None:
        super().release()
        if self._gathering is not None:
            self._gathering.release()

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self._gathering is None or self._gathering.is_whole:
            with super().whole():
                yield
            return
        self._gathering.gather()
        with super().whole():
            yield
        self._gathering.release()

    def gather(self) -> None:
        if self._gathering is not None and not self._gathering.is_whole:
            self._gathering.gather()
        super().gather()

    def weights(self) -> Iterator[KeptPart]:
        if self._gathering is None:
            if self.sharding.index == 0:
                yield from super().weights()  # the others have the same
            return
        for name, local in self._gathering.local.items():
            if self.answers_for(self._parameters[name]):
                yield self._kept(name, local, self._parameters[name])
        if self.stage is not None:
            yield from (part for part in self.stage.weights() if part.name not in self._parameters)

    @paddle.no_grad()
    def _publish(self) -> None:
        masters = {name: master for name, master, _ in self._masters()}
        for name, narrow in self._narrow.items():
            paddle.assign(cast(masters[name], narrow.dtype), output=narrow)
        if self._gathering is not None and not self._gathering.is_whole:
            return
        for bucket in (bucket for sending in self._sending.values() for bucket in sending.buckets):
            for name, whole in self.sharding.gather(bucket, masters).items():
                parameter = self._parameters[name]
                narrow = parameter.dtype in NARROW
                paddle.assign(cast(whole, parameter.dtype) if narrow else whole, output=parameter)

    def clear_grad(self) -> None:
        super().clear_grad()
        if self._gathering is not None:
            self._gathering.end_step()
        self._parts.clear()
        self._seen.clear()
        for sending in self._sending.values():
            sending.forget()
