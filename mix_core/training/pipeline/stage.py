"""What of a model a rank of a pipeline holds, and the moments at which it needs more.

Every rank builds the whole model and then lets go of what is in other stages' pieces. A tied head is held
twice, by the stage that embeds tokens and by the last one: they sum its gradient, update it alike, and the
last one's copy is neither counted nor written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from mix_core.models.common.parts import is_part, whole_box
from mix_core.models.common.pieces import JOINS, Piece
from mix_core.training.optimizer import KeptPart

if TYPE_CHECKING:
    from mix_core.training.groups import Groups


class Stage:
    """A rank's part of a pipeline. All ranks of a run have to make one.

    Args:
        pieces: of the whole chain, in order; piece i is of stage i % stages.
    """

    def __init__(self, model: Any, pieces: Sequence[Piece], groups: Groups) -> None:
        layout, rank = groups.layout, groups.job.rank
        self.model, self.pieces = model, list(pieces)
        self.count, self.index = layout.pipeline, groups.place.pipeline
        self.ranks = layout.group(rank, ("pipeline",))
        """Of the pipeline that this rank is in, by stage."""
        self.group = groups.along("pipeline")
        named = dict(model.named_parameters())
        holders = {name: self._holders(name) for name in named}
        self.goes_back = self._learning(named)
        self.held = {name for name, stages in holders.items() if self.index in stages}
        self._owner = {name: stages[0] for name, stages in holders.items()}
        self._parameters = named
        self._absent = {id(one) for name, one in named.items() if name not in self.held}
        self._repeated = {id(named[name]) for name in self.held if self._owner[name] != self.index}
        self._writes = self.index > 0 and groups.place.tensor == groups.place.sharding == 0
        """Whether it writes what ranks that differ in these have alike. The first stage leads instead."""
        shared = next((name for name, stages in holders.items() if len(stages) > 1), None)
        self.tied = shared if shared in self.held and not named[shared].stop_gradient else None
        """The name of a tied head that another stage holds too and that learns."""
        self._tied_group = None
        if shared is not None:
            self._tied_group = self._pair(holders[shared], groups)
        embeds = next(i for i, piece in enumerate(self.pieces) if piece.joins)
        if embeds != len(self.pieces) - 1:
            model.model.embed_tokens.is_head = False  # the head's loss is not of the same forward pass
        for name, parameter in named.items():
            if name not in self.held:
                parameter.stop_gradient = True
        self.is_whole = True

    def _holders(self, name: str) -> list[int]:
        """Stages that have a parameter, its owner first."""
        place = self.model.cuts.place(name)
        found = [i % self.count for i, piece in enumerate(self.pieces) if piece.has(place)]
        last = (len(self.pieces) - 1) % self.count
        is_head = self.model.lm_head is None and name.startswith(self.model.cuts.embedding)
        if place == JOINS and is_head and last not in found:
            found.append(last)
        return found

    def _learning(self, named: dict[str, Tensor]) -> tuple[bool, ...]:
        """For each piece, whether anything learns in it or before it."""
        learning = [self.model.cuts.place(name) for name, one in named.items() if not one.stop_gradient]
        found, before = [], False
        for i, piece in enumerate(self.pieces):
            before = before or any(piece.has(place) for place in learning)
            found.append(before or i == len(self.pieces) - 1)
        return tuple(found)

    def _pair(self, stages: list[int], groups: Groups) -> Any:
        """The group of a tied head's two holders in this pipeline."""
        mine = None
        for ranks in groups.layout.groups(("pipeline",)):
            pair = sorted(ranks[stage] for stage in stages)
            made = dist.new_group(pair) if len(pair) < groups.job.ranks else None
            if groups.job.rank in ranks:
                mine = made
        return mine

    def piece_of(self, name: str) -> int:
        """Which of the chain's pieces a parameter that is held here belongs to."""
        place = self.model.cuts.place(name)
        own = range(self.index, len(self.pieces), self.count)
        return next((number for number in own if self.pieces[number].has(place)), own[-1])

    @paddle.no_grad()
    def sum_tied(self, gradient: Tensor | None) -> None:
        """Sum the gradient of the tied head, or a part of it, over both stages that hold it, in place."""
        if gradient is not None:
            dist.all_reduce(gradient, group=self._tied_group)

    def has(self, parameter: Tensor) -> bool:
        """Whether a parameter is here; not one of a piece of another stage."""
        return id(parameter) not in self._absent

    def repeats(self, parameter: Tensor) -> bool:
        """Whether another stage has a parameter too, counts and writes it."""
        return id(parameter) in self._repeated

    def release(self) -> None:
        """Hold what is this stage's, and let go of all else."""
        for name, parameter in self._parameters.items():
            if name not in self.held and parameter._is_initialized():
                parameter._clear_data()
        self.is_whole = False

    @paddle.no_grad()
    def gather(self) -> None:
        """Have the whole model on the first stage; the others keep what they have."""
        if self.is_whole:
            return
        for name, parameter in self._parameters.items():
            owner = self._owner[name]
            if owner == 0 or self.index not in (0, owner):
                continue
            if self.index:
                dist.send(parameter.detach(), dst=self.ranks[0], group=self.group)
                continue
            whole = paddle.empty(parameter.shape, dtype=parameter.dtype)
            dist.recv(whole, src=self.ranks[owner], group=self.group)
            whole._share_buffer_to(parameter)
        self.is_whole = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The whole model on the first stage in here."""
        held = not self.is_whole
        if held:
            self.gather()
        yield
        if held:
            self.release()

    def weights(self) -> Iterator[KeptPart]:
        """What this rank writes of its stage's parameters, those aside that ranks have in parts."""
        for name, one in self._parameters.items():
            if self._writes and self.has(one) and not self.repeats(one) and not is_part(one):
                yield KeptPart(name, one, whole_box(one.shape), tuple(one.shape))
