"""metrics.jsonl: valid JSON lines, nothing lost at exit, cut back to the step that a run resumes from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from mix_core.errors import BadInputError
from mix_core.training.metrics import MetricsWriter, read_metrics


def test_one_object_a_line_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(1, loss=np.float32(2.5), learning_rate=1e-3, tokens=np.int64(7))
        metrics.write(2, loss=2.25, note="checkpoint")
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert list(json.loads(lines[0])) == ["step", "loss", "learning_rate", "tokens"]
    assert json.loads(lines[0])["tokens"] == 7


def test_a_loss_that_is_not_finite_is_still_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(1, loss=float("nan"), grad_norm=np.float32("inf"))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {"step": 1, "loss": None, "grad_norm": None}


def test_lines_wait_in_memory_until_the_time_is_up(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsWriter(path, flush_after_s=3600)
    metrics.write(1, loss=1.0)
    assert path.read_text() == ""
    metrics.flush()
    assert len(path.read_text().splitlines()) == 1
    metrics.flush_after_s = 0.0
    metrics.write(2, loss=0.5)
    assert len(path.read_text().splitlines()) == 2
    metrics.close()


def test_resume_drops_what_came_after_the_step_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in range(1, 8)) + '{"step": 8, "lo'
    )
    with MetricsWriter(path, resume_step=5) as metrics:
        metrics.write(6, loss=0.1)
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == 0.1 and rows[2]["loss"] == pytest.approx(1 / 3)


def test_a_new_run_starts_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsWriter(path).close()
    assert path.read_text() == ""


def test_nothing_is_lost_when_the_program_ends_without_close(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "from mix_core.training.metrics import MetricsWriter\n"
        f"m = MetricsWriter({str(path)!r}, flush_after_s=3600)\n"
        "m.write(1, loss=1.0)\nraise SystemExit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
    assert read_metrics(path) == [{"step": 1, "loss": 1.0}]


def test_a_folder_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="output_dir"):
        MetricsWriter(tmp_path / "missing" / "metrics.jsonl")
