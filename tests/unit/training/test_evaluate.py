"""Evaluation: every row asked and marked, whatever the batches; loss of all label tokens; a fair gallery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from mix_core.errors import DataError
from mix_core.models.registry import family_of_folder, load_model
from mix_core.training.evaluate import Marked, Question, evaluate, mark, mean_scores, question_of
from mix_core.training.gallery import choose
from tests.builders.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("model"), text={"hidden_size": 32, "intermediate_size": 48}
    )


@pytest.fixture(scope="module")
def processor(folder: Path):
    return family_of_folder(folder).load_processor(folder)


def row(
    folder: Path, number: int, task: str | None, truth: str, size: tuple[int, int] = (56, 56)
) -> dict[str, Any]:
    path = folder / f"{number}.png"
    Image.new("L", size, 20 * number % 256).save(path)
    asked = [{"type": "image", "image": str(path)}, {"type": "text", "text": f"question {number}?"}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": truth}]
    return {"messages": messages, "task": task, "source": f"eval.json row {number + 1}"}


class Oracle:
    """A model that reads the question's number in its prompt and says what it was told to."""

    training = True

    def __init__(self, processor: Any, answers: list[str]) -> None:
        self.tokenizer = processor.tokenizer
        self.end = processor.stop_token_ids[0]
        self.answers = [self.tokenizer.encode(text) for text in answers]
        self.batches: list[int] = []

    def train(self) -> None:
        self.training = True

    def eval(self) -> None:
        self.training = False

    def loss(self, batch: dict[str, np.ndarray]) -> tuple[Any, int]:
        count = int((batch["labels"] != -100).sum())
        return paddle.to_tensor(2.0 * count), count

    def new_cache(self, batch_size: int, max_length: int) -> None:
        self.batches.append(batch_size)

    def prefill(self, cache: None, batch: dict[str, np.ndarray]) -> Any:
        assert not self.training
        assert (batch["attention_mask"][:, -1] == 1).all(), "prompts are padded on the left"
        texts = [self.tokenizer.decode(list(ids)) for ids in batch["input_ids"]]
        numbers = [int(text.split("question ")[1].split("?")[0]) for text in texts]
        self.left = [[*self.answers[n], self.end] for n in numbers]
        return self.say()

    def decode(self, cache: None, ids: np.ndarray) -> Any:
        return self.say()

    def say(self) -> Any:
        logits = np.zeros((len(self.left), len(self.tokenizer) + 64), np.float32)
        for b, tokens in enumerate(self.left):
            logits[b, tokens.pop(0) if tokens else self.end] = 1.0
        return paddle.to_tensor(logits)


def test_rows_are_marked_by_task_whatever_the_batches(tmp_path, processor):
    truths = ["7", "12", "<box>(0,0),(500,500)</box>", "8", "345", "<box>(100,100),(200,200)</box>", "9", "6"]
    tasks = ["digit", "number", "box", "digit", "number", "box", "digit", "digit"]
    sizes = [(56, 56), (112, 56), (84, 84)]
    rows = [row(tmp_path, i, task, truth, sizes[i % 3]) for i, (task, truth) in enumerate(zip(tasks, truths))]
    said = ["7", "13", "<box>(0,0),(500,250)</box>", " 8\n", "345", "no idea", "", "66"]
    for batch_size in (1, 3, 100):
        model = Oracle(processor, said)
        results = evaluate(model, processor, rows, batch_size=batch_size, max_new_tokens=48)
        assert results == {"digit_exact": 0.5, "number_exact": 0.5, "box_iou": 0.25, "loss": 2.0}
        assert list(results) == ["digit_exact", "number_exact", "box_iou", "loss"]
        assert sum(model.batches) == len(rows) and max(model.batches) <= batch_size
        assert model.training, "the model is left as it was"
    assert evaluate(Oracle(processor, []), processor, [], batch_size=4, max_new_tokens=4) == {}


def test_a_real_model_in_batches_and_one_by_one(tmp_path, folder, processor):
    _, _, model = load_model(folder, random_init=True, seed=1)
    rows = [row(tmp_path, i, "digit", "1" * (1 + i % 3), (56, 56 + 28 * (i % 2))) for i in range(6)]
    single = evaluate(model, processor, rows, batch_size=1, max_new_tokens=5)
    together = evaluate(model, processor, rows, batch_size=4, max_new_tokens=5)
    assert single["digit_exact"] == together["digit_exact"]
    assert single["loss"] == pytest.approx(together["loss"], rel=1e-5)
    sums = [model.loss(processor.collate([processor.encode(r["messages"], max_length=None)])) for r in rows]
    expected = sum(float(s) for s, _ in sums) / sum(n for _, n in sums)
    assert together["loss"] == pytest.approx(expected, rel=1e-5)
    assert together["loss"] == pytest.approx(np.log(model.config.text.vocab_size), rel=0.1), (
        "untrained: uniform"
    )


def test_the_last_answer_is_asked_for_with_what_stands_before_it():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": [{"type": "text", "text": " <ref>x</ref><box>(1,2),(3,4)</box> "}]},
    ]
    question = question_of({"messages": messages, "task": None})
    assert question.prompt == messages[:3]
    assert question.truth == "<ref>x</ref><box>(1,2),(3,4)</box>"
    assert mark(question, question.truth).score == 1.0
    assert mean_scores([mark(question, "?")]) == {"iou": 0.0}


@pytest.mark.parametrize(
    "messages", [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": "a"}]]
)
def test_a_row_that_asks_nothing_is_named(messages):
    with pytest.raises(DataError, match=r"eval\.json row 4"):
        question_of({"messages": messages, "source": "eval.json row 4"})


def marked(task: str, score: float, name: str = "") -> Marked:
    return Marked(Question(task, [], name, []), name, [], score)


def test_gallery_is_evenly_spaced_and_adds_mistakes_not_yet_shown():
    rows = [marked("digit", float(i % 10 != 3), str(i)) for i in range(100)]
    rows += [marked("number", 0.0, str(i)) for i in range(100, 110)]
    chosen = choose(rows, 16)
    sample = [one.answer for pick, one in chosen if pick == "sample"]
    mistakes = [one.answer for pick, one in chosen if pick == "mistake"]
    assert len(sample) == 12 and len(mistakes) == 4
    assert sample[0::2] == ["0", "16", "33", "50", "66", "83"], "equal distances within a task"
    assert sample[1::2] == ["100", "101", "103", "105", "106", "108"]
    assert not set(sample) & set(mistakes)
    assert all(one.score < 1 for pick, one in chosen if pick == "mistake")
    assert len(choose(rows[:5], 16)) == 5 and choose([], 16) == []


def test_gallery_files(tmp_path, processor):
    rows = [row(tmp_path, 0, "digit", "7", (900, 1800)), row(tmp_path, 1, "box", "<box>(1,2),(3,4)</box>")]
    rows.append(
        {
            "messages": [{"role": "user", "content": "question 2?"}, {"role": "assistant", "content": "yes"}],
            "task": "text",
        }
    )
    (tmp_path / "run" / "gallery").mkdir(parents=True)
    (tmp_path / "run" / "gallery" / "099.png").write_bytes(b"of an earlier evaluation")
    model = Oracle(processor, ["7", "<ref>it</ref><box>(1,2),(3,5)</box>", "no"])
    evaluate(
        model, processor, rows, batch_size=2, max_new_tokens=48, gallery_dir=tmp_path / "run", gallery_size=8
    )
    entries = json.loads((tmp_path / "run" / "gallery.json").read_text())
    assert [entry["image"] for entry in entries] == ["gallery/000.png", "gallery/001.png", None]
    assert sorted(p.name for p in (tmp_path / "run" / "gallery").iterdir()) == ["000.png", "001.png"]
    digit, box, text = entries
    assert (
        digit["question"] == "question 0?"
        and digit["answer"] == digit["truth"] == "7"
        and digit["score"] == 1
    )
    assert box["boxes_answer"] == [[1, 2, 3, 5]] and box["boxes_truth"] == [[1, 2, 3, 4]]
    assert box["score"] == pytest.approx(2 / 3, abs=1e-3)
    assert (text["answer"], text["score"], text["task"]) == ("no", 0, "text")
    with Image.open(tmp_path / "run" / digit["image"]) as picture:
        assert picture.size == (384, 768), "large pictures are made smaller, in proportion"
