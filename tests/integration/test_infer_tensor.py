"""`mix-core infer --devices 0,1 --tensor_parallel_degree 2`: two simulated devices answer as one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native
from tests.builders.checkpoints import write_checkpoint
from tests.environment import run_simulated
from tests.integration.training_runs import assert_refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1]),
]
SHARED = ("--devices", "0,1", "--tensor_parallel_degree", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infer")
    write_checkpoint(folder / "model", weights=True)
    return folder


def infer(folder: Path, *words: object):
    fixed = ("--model", folder / "model", "--max_new_tokens", 6)
    command = ("-m", "mix_core.cli.main", "infer", *fixed, *words)
    return run_simulated(list(map(str, command)), folder)


def test_one_question_has_the_answer_of_one_device(folder):
    asked = ("--prompt", "What is it?", "--json", "--temperature", "0.7", "--seed", "3")
    found = []
    for words in (asked, (*asked, *SHARED)):
        done = infer(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(json.loads(done.stdout))
    assert found[0]["text"] == found[1]["text"] and found[1]["new_tokens"] == found[0]["new_tokens"]


def test_a_file_of_questions_goes_on_where_it_ended(folder):
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(3)))
    outs = [folder / "one.jsonl", folder / "two.jsonl"]
    assert infer(folder, "--batch", rows, "--out", outs[0], "--batch_size", 1).returncode == 0
    outs[1].write_text(outs[0].read_text().splitlines(keepends=True)[0])
    done = infer(folder, "--batch", rows, "--out", outs[1], "--batch_size", 1, *SHARED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 row(s) answered, 1 were there before" in done.stdout
    answers = [[json.loads(line)["text"] for line in out.read_text().splitlines()] for out in outs]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tensor_parallel_degree", "2"), ("no devices are named",)),
        (("--devices", "0,1"), ("names 2 devices and --tensor_parallel_degree is 1",)),
        (("--devices", "0,1,2", "--tensor_parallel_degree", "3"), ("rank", "does not divide num_attention")),
    ],
    ids=["devices", "degree", "heads"],
)
def test_what_cannot_be_is_one_line_and_code_2(folder, words, says):
    assert_refused(infer(folder, "--prompt", "What?", *words), 2, *says)
