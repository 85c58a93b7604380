"""How good a model is on held-out rows: loss, exact answers, boxes; and pictures to look at.

A row asks everything up to its last assistant message, and that message is the truth. Where the truth has
boxes, the answer's boxes are compared with them, else its text (`scores`); a result is named by task and
score: `digit_exact`, `box_iou`.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from mix_core.data.worker import for_row
from mix_core.errors import DataError
from mix_core.inference.conversation import text_of
from mix_core.inference.generation import generate
from mix_core.inference.grounding import Box, parse_boxes
from mix_core.training.gallery import write_gallery
from mix_core.training.scores import BOX_SCORES, DEFAULT, TEXT_SCORES

Row = dict[str, Any]

WINDOW_BATCHES = 16
"""Rows of so many batches are prepared together and sorted by length, so that batches need little padding."""


@dataclass(frozen=True)
class Question:
    """What one row asks, and what is right."""

    task: str | None
    prompt: list[dict[str, Any]]
    """The messages before the answer."""
    truth: str
    truth_boxes: list[Box]

    def metric(self, score: str) -> str:
        """The name of a score's mean over this task."""
        return f"{self.task}_{score}" if self.task else score

    def scores(self, chosen: Sequence[str]) -> list[str]:
        """Those of the chosen scores that fit this question, by its truth."""
        return [score for score in chosen if score in (BOX_SCORES if self.truth_boxes else TEXT_SCORES)]


@dataclass(frozen=True)
class Marked:
    """A question with the model's answer."""

    question: Question
    answer: str
    answer_boxes: list[Box]
    score: float
    """IoU, or 1 for the exact text and 0 for another one."""

    @property
    def metric(self) -> str:
        return self.question.metric("iou" if self.question.truth_boxes else "exact")

    def value(self, score: str) -> float:
        """Any score of `scores` that fits the question."""
        if score in BOX_SCORES:
            return BOX_SCORES[score](self.answer_boxes, self.question.truth_boxes)
        return TEXT_SCORES[score](self.answer, self.question.truth)


def evaluate(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    max_new_tokens: int,
    gallery_dir: Path | None = None,
    gallery_size: int = 48,
    metrics: Sequence[str] = DEFAULT,
) -> dict[str, float]:
    """Ask the model every row's question, greedily.

    Args:
        rows: {"messages", "task", "source"} as `mix_core.data.readers` gives them.
        gallery_dir: run folder in which to write gallery.json and gallery/*.png; None writes nothing.
        metrics: names of `scores`; each counts where it fits the truth.
    Returns:
        The mean score of each metric in the order of the rows' tasks, then `loss`, the mean over all label
        tokens; {} without rows.
    Raises:
        DataError: a row cannot be asked; the message names it.
    """
    marked: list[Marked] = []
    loss_sum, label_tokens = 0.0, 0
    training = model.training
    model.eval()
    try:
        window = WINDOW_BATCHES * batch_size
        for start in range(0, len(rows), window):
            answered, window_loss, window_tokens = _evaluate_window(
                model, processor, rows[start : start + window], batch_size, max_new_tokens
            )
            marked += answered
            loss_sum, label_tokens = loss_sum + window_loss, label_tokens + window_tokens
    finally:
        if training:
            model.train()
    if gallery_dir is not None:
        write_gallery(Path(gallery_dir), marked, gallery_size)
    results = mean_scores(marked, metrics)
    if label_tokens:
        results["loss"] = loss_sum / label_tokens
    return results


def mean_scores(marked: Sequence[Marked], metrics: Sequence[str] = DEFAULT) -> dict[str, float]:
    """Mean score of each metric, in the order in which they first come."""
    scores: dict[str, list[float]] = {}
    for one in marked:
        for score in one.question.scores(metrics):
            scores.setdefault(one.question.metric(score), []).append(one.value(score))
    return {metric: sum(values) / len(values) for metric, values in scores.items()}


@paddle.no_grad()
def _evaluate_window(
    model: Any, processor: Any, rows: Sequence[Row], batch_size: int, max_new_tokens: int
) -> tuple[list[Marked], float, int]:
    """Answers in the rows' order, the summed loss, and the number of label tokens."""
    questions = [question_of(row) for row in rows]
    processors = [for_row(processor, row) for row in rows]
    samples = [
        one.encode(row["messages"], max_length=None, describe=row.get("source") or "a row")
        for one, row in zip(processors, rows)
    ]
    answers: list[str] = [""] * len(rows)
    loss_sum, label_tokens = 0.0, 0
    for members in _batches([len(sample["input_ids"]) for sample in samples], batch_size):
        batch_loss, count = model.loss(processor.collate([samples[i] for i in members]))
        loss_sum, label_tokens = loss_sum + float(batch_loss), label_tokens + count
        for i, text in zip(
            members,
            _answers(
                model,
                [processors[i] for i in members],
                [questions[i] for i in members],
                max_new_tokens,
            ),
        ):
            answers[i] = text
    return [mark(question, answer) for question, answer in zip(questions, answers)], loss_sum, label_tokens


def _batches(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _answers(model: Any, processors: list[Any], questions: list[Question], max_new_tokens: int) -> list[str]:
    texts, images, videos = [], [], []
    for processor, question in zip(processors, questions):
        texts.append(processor.apply_chat_template(question.prompt, add_generation_prompt=True))
        own_images, own_videos = processor.find_visuals(question.prompt)
        images += own_images
        videos += own_videos
    batch = processor(text=texts, images=images, videos=videos, padding_side="left")
    rows = generate(model, batch, max_new_tokens=max_new_tokens, stop_token_ids=processor.stop_token_ids)
    return [processor.tokenizer.decode(ids).strip() for ids in rows]


def question_of(row: Row) -> Question:
    """Take a row apart at its last assistant message. Raises DataError where there is none."""
    messages = row["messages"]
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if last == 0:
        raise DataError(
            f"{row.get('source') or 'a row'}: no assistant message follows a question, so it asks nothing"
        )
    truth = text_of(messages[last]).strip()
    return Question(row.get("task"), list(messages[:last]), truth, parse_boxes(truth))


def mark(question: Question, answer: str) -> Marked:
    """Score an answer."""
    boxes = parse_boxes(answer)
    if question.truth_boxes:
        return Marked(question, answer, boxes, BOX_SCORES["iou"](boxes, question.truth_boxes))
    return Marked(question, answer, boxes, TEXT_SCORES["exact"](answer, question.truth))


def result_names(rows: Sequence[Row], *, generates: bool, metrics: Sequence[str]) -> list[str]:
    """The results that evaluating these rows will give. Raises DataError for a row that cannot be asked."""
    names: dict[str, None] = {}
    for row in rows if generates else ():
        question = question_of(row)
        names |= dict.fromkeys(question.metric(score) for score in question.scores(metrics))
    return [*names, "loss"] if rows else []
