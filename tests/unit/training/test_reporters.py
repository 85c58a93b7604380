"""Reports beside metrics.jsonl: TensorBoard is the real package, VisualDL and W&B are stand-ins recording."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError, RunFailedError
from mix_core.training import reporters
from mix_core.training.reporters import REPORTERS, Reporters, check_installed

LINE = {
    "loss": 1.5,
    "skipped": False,
    "eval_digit_exact": 0.25,
    "eval_loss": math.nan,
    "modules": {"model.layers.3": {"grad_norm": 2.0, "weight_norm": math.inf}},
}
SENT = {
    "train/loss": 1.5,
    "train/skipped": 0,
    "eval/digit_exact": 0.25,
    "modules/model.layers.3/grad_norm": 2.0,
}

RECORDER = """
    import json
    def note(call, **more):
        with open({!r}, "a") as file:
            print(json.dumps([call, more]), file=file)
"""
STAND_INS = {
    "visualdl": """
        class LogWriter:
            def __init__(self, logdir):
                note("start", logdir=logdir)
            def add_scalar(self, tag, value, step):
                note("scalar", tag=tag, value=value, step=step)
            def close(self):
                note("close")
    """,
    "wandb": """
        class Run:
            def log(self, values, step):
                note("log", values=values, step=step)
            def finish(self):
                note("close")
        def init(**options):
            note("start", **options)
            return Run()
    """,
}


def config(names: str, run: Path):
    return load_config(arguments={"report_to": names, "output_dir": str(run)})


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a recording package on the path -> what reads its calls."""
    calls = tmp_path / "calls.jsonl"

    def install(name: str) -> Any:
        head = RECORDER.format(str(calls))
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(head) + textwrap.dedent(STAND_INS[name]))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    yield install
    for name in STAND_INS:
        sys.modules.pop(name, None)


def test_tensorboard_files_read_back(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="the package tensorboard is not installed (extra [tensorboard])"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    with Reporters(config("tensorboard", run), run, None) as all_of_them:
        for step in (1, 2, 3):
            all_of_them.write(step, LINE | {"loss": float(step)})
    with Reporters(config("tensorboard", run), run, 2) as all_of_them:
        all_of_them.write(3, {"loss": 30.0})  # the killed run had come to step 3, its checkpoint to 2
    events = EventAccumulator(str(run / "curves/tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert set(events.Tags()["scalars"]) == set(SENT)
    assert [event.value for event in events.Scalars("eval/digit_exact")] == [0.25, 0.25]


def test_visualdl_gets_every_scalar(tmp_path, stand_in):
    calls = stand_in("visualdl")
    with Reporters(config("visualdl", tmp_path / "run"), tmp_path / "run", None) as all_of_them:
        all_of_them.write(4, LINE)
    start, *scalars, close = calls()
    assert start == ["start", {"logdir": str(tmp_path / "run/curves/visualdl")}] and close == ["close", {}]
    assert {more["tag"]: more["value"] for _, more in scalars} == SENT
    assert {more["step"] for _, more in scalars} == {4}


def test_wandb_goes_on_with_the_run_of_the_same_folder(tmp_path, stand_in):
    calls = stand_in("wandb")
    run = tmp_path / "run"
    for resume_step in (None, 4):
        with Reporters(config("wandb", run), run, resume_step) as all_of_them:
            all_of_them.write(5, LINE)
    (_, first), log, close, (_, second), *_ = calls()
    assert log == ["log", {"values": SENT, "step": 5}] and close == ["close", {}]
    assert first["id"] == second["id"] and first["name"] == "run"
    assert (first["resume"], second["resume"]) == (None, "allow")
    assert first["config"]["learning_rate"] == 5e-5 and Path(first["dir"]) == run / "curves/wandb"


def test_a_folder_for_reports(tmp_path, stand_in):
    calls = stand_in("visualdl")
    elsewhere = load_config(arguments={"report_to": "visualdl", "logging_dir": str(tmp_path / "here")})
    Reporters(elsewhere, tmp_path / "run", None).close()
    assert calls()[0][1]["logdir"] == str(tmp_path / "here/visualdl")


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_a_missing_package_is_named_with_its_command(monkeypatch, name, tmp_path):
    monkeypatch.setattr(reporters, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=f"not installed: pip install {name}; ") as error:
        check_installed(config(name, tmp_path))
    assert error.value.exit_code == 2
    check_installed(load_config(arguments={"report_to": "none"}))


def test_a_service_that_refuses_is_named(tmp_path, stand_in):
    stand_in("wandb")
    (tmp_path / "wandb.py").write_text("def init(**options):\n    raise ValueError('no\\n api key')\n")
    with pytest.raises(RunFailedError, match="report_to wandb does not start: no api key; mend that"):
        Reporters(config("wandb", tmp_path), tmp_path, None)


def test_nothing_is_asked_for(tmp_path):
    with Reporters(config("none", tmp_path), tmp_path, None) as nobody:
        nobody.write(1, LINE)
    assert not (tmp_path / "curves").exists()
