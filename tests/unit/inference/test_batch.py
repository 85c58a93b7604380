"""Files of questions: every form of row, order, resuming, bad rows by choice with their counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mix_core.errors import BadInputError, DataError
from mix_core.inference.batch import BatchRun, raw_rows, read_question
from mix_core.inference.engine import Answer


class Clerk:
    """An engine that answers with the question; `bad` questions cannot be answered."""

    def __init__(self, bad: str = "", dies_after: int = 99) -> None:
        self.bad, self.dies_after = bad, dies_after
        self.batches: list[int] = []

    def answer(self, conversations: list[Any], **answering: Any) -> list[Answer]:
        texts = [
            "".join(part.get("text", "<pic>") for part in turns[-1]["content"])
            if isinstance(turns[-1]["content"], list)
            else turns[-1]["content"]
            for turns in conversations
        ]
        if self.bad and any(self.bad in text for text in texts):
            raise DataError("the picture is no picture")
        if len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(len(texts))
        return [Answer(f"{text}! <ref>it</ref><box>(1,2),(3,4)</box>", 9, 2, "stop") for text in texts]

    def seen_size(self, picture: Any) -> None:
        return None


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


QUESTIONS = [{"id": f"q{i}", "prompt": f"what {i}"} for i in range(7)]


def test_answers_come_in_order_with_their_rows(tmp_path):
    run = BatchRun(write_rows(tmp_path / "q.jsonl", QUESTIONS), tmp_path / "a.jsonl", batch_size=3)
    run.check()
    engine = Clerk()
    counts = run.run(engine, max_new_tokens=5)
    assert vars(counts) == {"answered": 7, "bad": 0, "done_before": 0} and engine.batches == [3, 3, 1]
    found = read(tmp_path / "a.jsonl")
    assert [(one["row"], one["id"]) for one in found] == [(i + 1, f"q{i}") for i in range(7)]
    assert found[2]["text"].startswith("what 2!") and found[2]["finish"] == "stop"
    assert found[2]["boxes"] == [{"label": "it", "box": [1, 2, 3, 4]}]


@pytest.mark.parametrize("torn", [0, 1, 17])
def test_a_run_that_was_cut_off_goes_on_where_it_ended(tmp_path, torn):
    source = write_rows(tmp_path / "q.jsonl", QUESTIONS)
    BatchRun(source, tmp_path / "whole.jsonl", batch_size=2).run(Clerk())
    run = BatchRun(source, tmp_path / "a.jsonl", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run.run(Clerk(dies_after=2))
    written = (tmp_path / "a.jsonl").read_bytes()
    assert len(written.splitlines()) == 4
    (tmp_path / "a.jsonl").write_bytes(written[: len(written) - torn])  # as if the machine had gone down
    run.check()
    engine = Clerk()
    counts = run.run(engine)
    assert counts.done_before == (4 if not torn else 3) and counts.answered == 7 - counts.done_before
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert vars(run.run(Clerk(dies_after=0))) == {"answered": 0, "bad": 0, "done_before": 7}


def test_another_file_of_rows_is_not_continued(tmp_path):
    source = write_rows(tmp_path / "q.jsonl", QUESTIONS)
    run = BatchRun(source, tmp_path / "a.jsonl")
    run.run(Clerk())
    write_rows(source, [{"prompt": "another"}, *QUESTIONS[1:]])
    with pytest.raises(BadInputError, match="written for other rows: row 1 is another one"):
        run.check()
    (tmp_path / "a.jsonl").write_text("my notes\n")
    with pytest.raises(BadInputError, match="no answer of this command"):
        run.check()
    assert (tmp_path / "a.jsonl").read_text() == "my notes\n"


BAD = [{"prompt": "one"}, {"question": 3}, {"prompt": "bad two"}, "text", {"prompt": "three"}]


def test_bad_rows_are_skipped_with_their_reason_and_counted(tmp_path):
    source = write_rows(tmp_path / "q.jsonl", BAD)
    source.write_text(source.read_text() + "{broken\n")
    run = BatchRun(source, tmp_path / "a.jsonl", batch_size=4, skip_bad=True)
    run.check()
    counts = run.run(Clerk(bad="bad"))
    assert vars(counts) == {"answered": 2, "bad": 4, "done_before": 0}
    found = {one["row"]: one for one in read(tmp_path / "a.jsonl")}
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert [row for row, one in found.items() if "error" in one] == [2, 3, 4, 6]
    assert (
        "q.jsonl row 2: no prompt, messages or conversations; the row's keys are question"
        in found[2]["error"]
    )
    assert "q.jsonl row 3: the picture is no picture" in found[3]["error"]
    assert "row 6: no valid JSON: column 2" in found[6]["error"]
    assert all("key" in one for one in found.values()) and vars(run.run(Clerk()))["done_before"] == 6


def test_by_default_a_bad_row_ends_the_run_with_its_number(tmp_path):
    run = BatchRun(write_rows(tmp_path / "q.jsonl", BAD), tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"q\.jsonl row 2: no prompt"):
        run.check()
    only = BatchRun(write_rows(tmp_path / "b.jsonl", [BAD[0], BAD[2]]), tmp_path / "b-out.jsonl")
    only.check()
    with pytest.raises(DataError, match=r"b\.jsonl row 2: the picture is no picture"):
        only.run(Clerk(bad="bad"))


@pytest.mark.parametrize(
    ("row", "turns", "reference"),
    [
        ({"prompt": "p", "image": "a.png"}, [("user", ["image", "text"])], None),
        (
            {"text": "<image> or <image>", "images": ["a.png", "b.png"]},
            [("user", ["image", "text", "image"])],
            None,
        ),
        ({"question": "p", "video": "v.mp4"}, [("user", ["video", "text"])], None),
        (
            {
                "messages": [
                    {"role": "user", "content": "<image>p"},
                    {"role": "assistant", "content": "it is"},
                ],
                "images": ["a.png"],
            },
            [("user", ["image", "text"])],
            "it is",
        ),
        (
            {
                "conversations": [
                    {"from": "user", "value": "Picture 1: <img>a.png</img>\np"},
                    {"from": "assistant", "value": "x"},
                ]
            },
            [("user", ["text", "image", "text"])],
            "x",
        ),
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\np"}]},
            [("user", ["image", "text"])],
            None,
        ),
    ],
)
def test_every_form_of_row_is_a_question(row, turns, reference, tmp_path):
    question = read_question(1, json.dumps(row), tmp_path)
    found = [(turn["role"], [part["type"] for part in turn["content"]]) for turn in question.messages]
    assert found == turns and question.reference == reference
    pictures = [p for turn in question.messages for p in turn["content"] if p["type"] == "image"]
    assert all(Path(part["image"]).is_relative_to(tmp_path) for part in pictures)


def test_rows_of_a_list_and_of_lines_are_the_same(tmp_path):
    write_rows(tmp_path / "a.jsonl", QUESTIONS)
    (tmp_path / "a.json").write_text(json.dumps(QUESTIONS, indent=1))
    (tmp_path / "b.jsonl").write_text("\ufeff\n" + (tmp_path / "a.jsonl").read_text().replace("\n", "\n\n"))
    rows = {
        name: [(n, json.loads(text)) for n, text in raw_rows(tmp_path / name)]
        for name in ("a.jsonl", "a.json", "b.jsonl")
    }
    assert rows["a.jsonl"] == rows["a.json"] == rows["b.jsonl"]


def test_what_is_wrong_with_the_files_is_found_first(tmp_path):
    source = write_rows(tmp_path / "q.jsonl", QUESTIONS)
    (tmp_path / "none.jsonl").write_text("\n")
    for run, reason in (
        (BatchRun(tmp_path / "missing.jsonl", tmp_path / "a"), "do not exist"),
        (BatchRun(tmp_path / "none.jsonl", tmp_path / "a"), "are none"),
        (BatchRun(source, source), "the file of rows itself"),
        (BatchRun(source, tmp_path / "none" / "a"), "cannot be written"),
        (BatchRun(source, tmp_path / "a", batch_size=0), "--batch_size is 0"),
    ):
        with pytest.raises(BadInputError, match=reason) as error:
            run.check()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()


def test_answers_with_boxes_are_handed_out_for_drawing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = write_rows(tmp_path / "q.jsonl", [{"prompt": "p", "image": "a.png"}])
    drawn = []
    run = BatchRun(
        source, tmp_path / "a.jsonl", on_answer=lambda q, boxes: drawn.append((q.row, boxes[0].label))
    )
    run.run(Clerk())
    assert drawn == [(1, "it")]
