"""Both stages of a pipeline in one process, their messages in mailboxes, against the whole model."""

from __future__ import annotations

from collections import defaultdict, deque
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.conformance.tiny_runs import built, tiny_families
from mix_core.device.ranks import Job
from mix_core.errors import RunFailedError
from mix_core.training.groups import Groups
from mix_core.training.layout import Layout
from mix_core.training.optimizer import AdamW
from mix_core.training.pipeline.engine import Pipeline
from mix_core.training.pipeline.messages import DTYPES, MOST_AXES, blank_of, header_of
from mix_core.training.pipeline.schedule import RECEIVE
from mix_core.training.pipeline.split import pieces_of_counts
from mix_core.training.pipeline.stage import Stage

STAGES = 2


class Mailbox:
    """Messages of one process to itself, as their headers and values."""

    def __init__(self, own: int, boxes: dict[tuple[int, int], deque[Any]]) -> None:
        self.own, self.boxes = own, boxes

    def send(self, tensor: Any, to: int) -> None:
        values = None if tensor is None else tensor.numpy()
        self.boxes[self.own, to].append((header_of(tensor), values))

    def receive(self, sender: int) -> Any:
        header, values = self.boxes[sender, self.own].popleft()
        tensor = blank_of(header)
        if tensor is not None:
            with paddle.no_grad():
                tensor.set_value(values)
        return tensor


def without_pictures(batch: dict[str, Any]) -> dict[str, Any]:
    """As many tokens, all of them text."""
    kept = {name: batch[name] for name in ("attention_mask", "labels", "sample_ids") if name in batch}
    return kept | {"input_ids": np.full_like(batch["input_ids"], 5)}


def stage_of(family: str, rank: int, towers: list[int], decoders: list[int], frozen: str | None) -> Any:
    model, _ = built(family)
    model.train()
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = frozen is not None and name.startswith(frozen)
    groups = Groups(Layout(STAGES, pipeline=STAGES), Job(rank, STAGES))
    stage = Stage(model, pieces_of_counts(towers, decoders), groups)
    optimizer = AdamW(model, stage=stage)
    stage.release()
    return stage, optimizer


def run(pipelines: list[Pipeline], passes: list[dict[str, Any]]) -> None:
    """Play the stages in turn, each as far as its messages are there."""
    plans = [deque(pipeline.plan(len(passes))) for pipeline in pipelines]
    while any(plans):
        moved = False
        for rank, (pipeline, plan) in enumerate(zip(pipelines, plans)):
            while plan and (plan[0].kind != RECEIVE or pipeline._messages.boxes[1 - rank, rank]):
                action = plan.popleft()
                pipeline.act(action, passes[action.number], 1.0)
                moved = True
        assert moved, "all stages wait"


CUTS = {
    "two stages": lambda blocks, layers: ([blocks, 0], [layers - 1, 1]),
    "the tower is cut": lambda blocks, layers: ([1, blocks - 1], [0, layers]),
    "two pieces each": lambda blocks, layers: ([1, blocks - 1, 0, 0], [0, 0, 1, layers - 1]),
}
CASES = [
    *((family, "the tower is cut", None) for family in tiny_families()),
    ("qwen2_5_vl", "two stages", None),
    ("qwen2_5_vl", "two pieces each", None),
    ("qwen2_5_vl", "the tower is cut", "visual."),
]


@pytest.mark.parametrize(("family", "cut", "frozen"), CASES)
def test_two_stages_have_the_gradients_of_the_whole(family, cut, frozen):
    """Three passes, the second one of text alone; a tied head is summed over both stages."""
    whole, batch = built(family)
    whole.train()
    passes = [batch, without_pictures(batch), batch]
    counts = whole.cuts.count(name for name, _ in whole.named_parameters())
    wanted = 0.0
    for name, parameter in whole.named_parameters():
        parameter.stop_gradient = frozen is not None and name.startswith(frozen)
    for one in passes:
        loss, _ = whole.loss(one)
        loss.backward()
        wanted += float(loss)
    boxes: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
    made = [stage_of(family, rank, *CUTS[cut](*counts), frozen) for rank in range(STAGES)]
    pipelines = [
        Pipeline(stage, nullcontext, messages=Mailbox(rank, boxes)) for rank, (stage, _) in enumerate(made)
    ]
    run(pipelines, passes)
    assert float(pipelines[-1].loss) == pytest.approx(wanted, rel=1e-6)
    assert not any(boxes.values()) and not any(
        kept for one in pipelines for kept in (one._given, one._made, one._gradients)
    )
    found: dict[str, np.ndarray] = {}
    for _, optimizer in made:
        for name, gradient in optimizer.gradients().items():
            if gradient is not None:
                found[name] = found.get(name, 0.0) + gradient.numpy()
    others = {name: one.grad.numpy() for name, one in whole.named_parameters() if one.grad is not None}
    assert found.keys() == others.keys()
    for name, gradient in found.items():
        away = np.linalg.norm(gradient - others[name])
        assert away <= 1e-5 * np.linalg.norm(others[name]) + 1e-9, name


def test_a_stage_holds_its_own_parameters():
    stage, optimizer = stage_of("qwen2_5_vl", 1, [4, 0], [1, 1], None)
    held = {name for name, one in stage.model.named_parameters() if one._is_initialized()}
    assert held == stage.held == {name for name, _ in optimizer.named_parameters()}
    assert "model.layers.1.mlp.up_proj.weight" in held and not any(
        name.startswith("visual.") for name in held
    )
    tied = stage.model.model.embed_tokens.weight
    assert "model.embed_tokens.weight" in held and stage.repeats(tied) and not optimizer.answers_for(tied)
    written = {part.name for part in (*optimizer.weights(), *optimizer.kept())}
    assert "model.norm.weight" in written and not any("embed_tokens" in name for name in written)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [[], [7], [2, 0, 3], [1, 2, 3, 4, 5]])
def test_a_message_says_what_follows(dtype, shape):
    for frozen in (False, True):
        tensor = paddle.zeros(shape, dtype=dtype)
        tensor.stop_gradient = frozen
        header = header_of(tensor)
        blank = blank_of(header)
        assert (header.dtype, header.shape) == (np.int32, (3 + MOST_AXES,))
        assert (list(blank.shape), blank.dtype, blank.stop_gradient) == (shape, dtype, frozen)
    assert blank_of(header_of(None)) is None


@pytest.mark.parametrize("header", [[9, 0, 1, 4], [0, 0, 6, 1], [0, 0, 2, 4, -1]])
def test_a_header_that_announces_nothing_known_is_refused(header):
    with pytest.raises(RunFailedError, match="announces no tensor"):
        blank_of([*header, *[0] * (3 + MOST_AXES - len(header))])
