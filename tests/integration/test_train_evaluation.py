"""Evaluation within and after a run, measuring only, and what a checkpoint is to other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.training.checkpoint import list_checkpoints
from tests.integration.training_runs import metrics, train, write_inputs


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    rows = str(folder / "data/train.json")
    return write_inputs(folder, dataset={"train": rows, "eval": rows}, max_steps=4, eval_max_new_tokens=4)


@pytest.fixture(scope="module")
def trained(config) -> Path:
    run = config.parent / "trained"
    words = ("--evaluation_strategy", "steps", "--eval_steps", "2", "--max_eval_samples", "4")
    done = train(config, "--output_dir", run, *words)
    assert done.returncode == 0, done.stderr
    assert "name_exact" in done.stdout and f"report: {run / 'report.html'}" in done.stdout
    return run


def test_evaluations_stand_in_the_lines_of_their_steps(trained):
    with_loss = [row["step"] for row in metrics(trained) if "eval_loss" in row]
    assert with_loss == [2, 4] and len(metrics(trained)) == 4
    assert all("eval_name_exact" in row for row in metrics(trained) if row["step"] in with_loss)
    keys = [
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "label_tokens",
        "memory_bytes",
        "samples_per_s",
        "padding",
        "tflops",
        "compute_ms",
        "communication_ms",
        "checkpoint_ms",
        "step_ms",
    ]
    assert list(metrics(trained)[0]) == [*keys, "data_ms", "epoch"]


def test_the_time_of_the_run_is_split(trained):
    lines = metrics(trained)
    for row in lines:
        parts = row["compute_ms"] + row["communication_ms"] + row["data_ms"]
        assert parts == pytest.approx(row["step_ms"]) and 0 <= row["padding"] < 1 and row["tflops"] > 0
    found = json.loads((trained / "run.json").read_text())["throughput"]
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert found["seconds"]["checkpoint"] > 0 and found["seconds"]["evaluation"] > 0
    steps_s = sum(row["step_ms"] for row in lines) / 1e3
    assert found["tokens_per_s"] * steps_s == pytest.approx(
        sum(row["tokens_per_s"] * row["step_ms"] / 1e3 for row in lines)
    )
    page = (trained / "report.html").read_text()
    assert "Where the time went" in page and "writing checkpoints" in page
    assert "the device states no peak" in page


def test_results_report_and_gallery(trained):
    results = json.loads((trained / "results.json").read_text())
    assert set(results) == {"name_exact", "loss"} and results["loss"] > 0
    assert (trained / "report.html").stat().st_size > 1000
    gallery = json.loads((trained / "gallery.json").read_text())
    assert len(gallery) == 10 and {"question", "answer", "truth", "score"} <= set(gallery[0])


def test_only_evaluating_takes_no_step(config, trained, tmp_path):
    checkpoint = list_checkpoints(trained)[-1]
    keys = ("--model_name_or_path", checkpoint, "--from_scratch", "false", "--do_train", "false")
    done = train(
        config, "--output_dir", tmp_path / "run", *keys, "--dataset.eval", config.parent / "data/train.json"
    )
    assert done.returncode == 0, done.stderr
    assert list_checkpoints(tmp_path / "run") == [] and not (tmp_path / "run/metrics.jsonl").exists()
    results = [json.loads((run / "results.json").read_text()) for run in (trained, tmp_path / "run")]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-6)


def test_measuring_only_leaves_no_checkpoint_and_the_loss_alone(config, tmp_path):
    words = (
        "--benchmark",
        "--save_strategy",
        "no",
        "--eval_with_do_generation",
        "false",
        "--skip_memory_metrics",
    )
    done = train(config, "--output_dir", tmp_path / "run", *words)
    assert done.returncode == 0, done.stderr
    assert list_checkpoints(tmp_path / "run") == []
    assert list(json.loads((tmp_path / "run/results.json").read_text())) == ["loss"]
    assert "memory_bytes" not in metrics(tmp_path / "run")[0]


def test_frozen_parts_and_recomputing(config, trained, tmp_path):
    from safetensors.numpy import load_file

    before = load_file(list_checkpoints(trained)[-1] / "model.safetensors")
    start = (
        "--model_name_or_path",
        list_checkpoints(trained)[-1],
        "--from_scratch",
        "false",
        "--do_eval",
        "false",
    )
    keys = ("--fix_vit", "--freeze_exclude", "visual.merger.*", "--recompute", "--learning_rate", "0.01")
    done = train(config, "--output_dir", tmp_path / "run", *start, *keys)
    assert done.returncode == 0, done.stderr
    after = load_file(tmp_path / "run/checkpoint-4/model.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    kept = {name for name in before if name.startswith("visual.") and not name.startswith("visual.merger.")}
    assert changed == set(before) - kept
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["model"]["learning"] == sum(before[name].size for name in changed)


def test_recomputing_and_packing_by_workers_change_no_result(config, tmp_path):
    """Recompute gives the same gradients; two workers give the same batches; both also under dropout."""
    words = ("--do_eval", "false", "--max_steps", "3", "--packing")
    plain = train(config, "--output_dir", tmp_path / "plain", *words)
    other = train(config, "--output_dir", tmp_path / "other", *words, "--recompute", "--num_workers", "2")
    assert plain.returncode == other.returncode == 0, other.stderr
    losses = [[row["loss"] for row in metrics(tmp_path / name)] for name in ("plain", "other")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_transformers_loads_a_checkpoint_as_it_is(trained):
    transformers = pytest.importorskip("transformers", reason="the peer that has to load it is not installed")
    folder = list_checkpoints(trained)[-1]
    model, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("What is it?", return_tensors="pt").input_ids
    assert model(input_ids=ids).logits.isfinite().all()
