"""Training on a mix of data sets as a user gives it: every form, bad rows left out and counted, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.training.checkpoint import list_checkpoints
from tests.integration.training_runs import STEPS, assert_refused, digests, metrics, train, write_inputs


def turns(question: str, answer: str = "it is.", asker: str = "human", teller: str = "gpt") -> list[dict]:
    return [{"from": asker, "value": question}, {"from": teller, "value": answer}]


def write_mix(folder: Path) -> Path:
    """A meta file over four sets, of which `bad` holds what downloads and hands leave behind."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "page.png").write_text("<!DOCTYPE html><title>404</title>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    (folder / "pictures").mkdir()
    Image.fromarray(pixels).save(folder / "pictures" / "b.png")
    sets = {
        "llava": [
            {"image": "a.png", "conversations": turns("<image>\nWhat?", f"it is {n}.")} for n in range(3)
        ],
        "qwen": [
            {
                "conversations": turns(
                    "Picture 1: <img>a.png</img>\nWhere?", "<box>(1,2),(3,4)</box>", "user", "assistant"
                )
            },
            {"conversations": [["Why?", "So."]]},
        ],
        "caption": [
            {"image": "b.png", "caption": ["A cat.", "A dog."]},
            {"image": "b.png", "question": "?", "answer": ["7"]},
        ],
        "bad": [
            {"image": "page.png", "conversations": turns("<image>What?")},
            {"image": "empty.png", "conversations": turns("<image>What?")},
            {"conversations": turns("fine")},
            {"image": "half.png", "conversations": turns("<image>What?")},
            {"image": "gone.png", "conversations": turns("<image>What?")},
            {"conversations": [{"from": "human"}]},
            {"conversations": turns("<img>a.png\nWhat?", asker="user")},
            {"conversations": turns("Where?", "<box>(0,0),(1000,4)</box>")},
            {"image": "http://127.0.0.1:9/a.png", "conversations": turns("<image>What?")},
            {"conversations": turns("fine too")},
        ],
    }
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {name: {"annotation": str(folder / f"{name}.jsonl"), "repeat_time": 1} for name in sets}
    meta["caption"] |= {
        "root": str(folder / "pictures"),
        "repeat_time": 2,
        "length": 2,
        "data_augment": False,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


REASONS = {
    1: "page.png: its content is an HTML page",
    2: "empty.png: it has 0 bytes",
    4: "half.png: its data is truncated or corrupt",
    5: "gone.png does not exist",
    6: 'turn 1: the key "value" is missing',
    7: "turn 1: <img> has no </img> on its line",
    8: "turn 2: <box>(0,0),(1000,4)</box> reaches outside [0, 1000)",
    9: "host '127.0.0.1' has the private address 127.0.0.1, which is refused",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    meta = write_mix(folder / "sets")
    keys = {"dataset": {}, "meta_path": str(meta), "packing": True, "on_bad_sample": "skip"}
    keys["kernels"] = "reference"  # about data: nothing to build first
    return write_inputs(folder, cache_dir=str(folder / "cache"), **keys)


def test_bad_rows_are_left_out_counted_and_named(config, tmp_path):
    run = tmp_path / "run"
    done = train(config, "--output_dir", run, "--dataloader_num_workers", "1", "--max_steps", "3")
    assert done.returncode == 0, done.stderr
    named = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    found = {int(entry["row"].rpartition(" ")[2]): entry["reason"] for entry in named}
    assert found.keys() == REASONS.keys() and all("bad.jsonl row" in entry["row"] for entry in named)
    for number, reason in REASONS.items():
        assert reason in found[number], found[number]
    assert "rows left out: 8 cannot be used" in done.stderr and "skipped.jsonl names them" in done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["skipped_bad"] == 8
    assert "skipped_bad" in done.stdout


def test_by_default_the_first_bad_row_stops_the_run_before_it_starts(config, tmp_path):
    done = train(config, "--output_dir", tmp_path / "run", "--on_bad_sample", "error")
    assert_refused(done, 2, "bad.jsonl row 5", "gone.png does not exist")
    assert not list(tmp_path.glob("run/metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["true", "false"])
def test_a_killed_run_goes_on_with_another_number_of_workers(config, tmp_path, packing):
    """Rows of a large file, read through its index, bad ones among them."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ("--packing", packing, "--max_length", "64")
    done = train(config, *words, "--output_dir", whole)
    assert done.returncode == 0, done.stderr
    train(
        config, *words, "--output_dir", parts, "--dataloader_num_workers", "2", env={"MIX_KILL_AT": "step:5"}
    )
    done = train(config, *words, "--output_dir", parts, "--dataloader_num_workers", "1", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    last = f"checkpoint-{STEPS}"
    assert digests(whole / last) == digests(parts / last)
    assert [row["loss"] for row in metrics(whole)] == [row["loss"] for row in metrics(parts)]
    assert list_checkpoints(parts)[-1].name == last
    both = [json.loads((run / "results.json").read_text())["skipped_bad"] for run in (whole, parts)]
    assert both == [8, 8]
