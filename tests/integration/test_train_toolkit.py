"""The fine-tuning keys together in real runs: on the digits, killed and resumed, stopped early, best last."""

from __future__ import annotations

import json
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mix_core.data.digits import ensure_digits
from mix_core.training.checkpoint import list_checkpoints
from mix_core.training.reporters import REPORTERS
from tests.builders.checkpoints import write_checkpoint
from tests.integration.training_runs import (
    LARGE,
    assert_refused,
    digests,
    metrics,
    train,
    write_data,
    write_inputs,
)


def written(folder: Path, **keys: Any) -> Path:
    """A configuration of 8 quick steps with 6 held-out rows."""
    config = write_inputs(folder, **keys)
    values = json.loads(config.read_text())
    values["dataset"]["eval"] = str(write_data(folder / "held", 6))
    config.write_text(json.dumps(values))
    return config


def test_many_keys_together(tmp_path):
    """On a tiny model; the tower's rates need pictures in the rows, the best needs two evaluations."""
    config = written(
        tmp_path,
        neftune=True,
        vit_lr=5e-3,
        vit_layer_decay=0.8,
        module_stats_steps=2,
        group_by_length=True,
        chat_template="chatml",
        evaluation_strategy="steps",
        eval_steps=2,
        eval_metrics=["exact", "f1", "anls"],
        eval_max_new_tokens=4,
        load_best_model_at_end=True,
        early_stopping_patience=9,
        new_special_tokens=[f"<|cell_{i}|>" for i in range(90)],
        resize_vocab=True,
        max_steps=3,
    )
    done = train(config)
    assert done.returncode == 0 and "best: " in done.stdout, done.stderr
    rows = metrics(tmp_path / "run")
    assert [("eval_loss" in row, "modules" in row) for row in rows] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {"name_exact", "name_f1", "name_anls", "loss"} <= set(results)
    assert results["loss"] == rows[1]["eval_loss"], "of the best checkpoint, not of the last step"
    saved = json.loads((tmp_path / "run/checkpoint-3/config.json").read_text())
    assert saved["vocab_size"] > json.loads((tmp_path / "model/config.json").read_text())["vocab_size"]


def test_parameters_updated_going_back_are_those_of_a_run_that_updates_behind(tmp_path):
    """Weights, moments, losses and norms, also of one that was killed and resumed; it cannot clip."""
    config = write_inputs(tmp_path, max_grad_norm=0, max_steps=4)
    write_checkpoint(tmp_path / "model", text=LARGE)
    folders = [tmp_path / name for name in ("behind", "within")]
    done = train(config, "--output_dir", folders[0])
    assert done.returncode == 0, done.stderr
    words = (config, "--optimizer_in_backward", "true", "--output_dir", folders[1])
    assert train(*words, env={"MIX_KILL_AT": "step:3"}).returncode == -signal.SIGKILL
    done = train(*words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    behind, within = ([(row["loss"], row["grad_norm"]) for row in metrics(folder)] for folder in folders)
    assert within == behind and len(behind) == 4
    assert digests(folders[1] / "checkpoint-4") == digests(folders[0] / "checkpoint-4")
    refused = train(config, "--optimizer_in_backward", "true", "--max_grad_norm", "1")
    assert_refused(refused, 2, "max_grad_norm 1 needs all gradients", "give max_grad_norm 0")


@pytest.mark.slow
def test_many_keys_on_the_digits(tmp_path):
    digits = ensure_digits(tmp_path / "digits")
    template = {
        "system": "<|im_start|>system\nYou read.<|im_end|>\n",
        "conversation": [
            "<|im_start|>user\n{{user}}<|im_end|>\n<|im_start|>assistant\n",
            "{{bot}}<|im_end|>\n",
        ],
        "query": "<|im_start|>user\n{{query}}<|im_end|>\n<|im_start|>assistant\n",
    }
    (tmp_path / "chat_template.json").write_text(json.dumps(template))
    values = {
        "model_name_or_path": "model",
        "bundled_data": None,
        "first_task": None,
        "dataset": {
            "train": [
                {
                    "data_files": f"{digits}/train.json#200",
                    "chat_template": str(tmp_path / "chat_template.json"),
                }
            ],
            "eval": f"{digits}/eval.json#6",
        },
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "neftune": True,
        "vit_lr": 5e-3,
        "vit_layer_decay": 0.8,
        "mm_projector_lr": 1e-3,
        "module_stats_steps": 2,
        "evaluation_strategy": "steps",
        "eval_steps": 2,
        "eval_metrics": ["exact", "f1", "anls", "iou", "iou50"],
        "eval_max_new_tokens": 6,
        "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": True,
        "new_special_tokens": "<|seven|>",
        "resize_vocab": True,
        "save_total_limit": 1,
        "output_dir": str(tmp_path / "run"),
    }
    arguments = [word for key, value in values.items() for word in (f"--{key}", _text(value))]
    done = train("--recipe", "digits", *arguments)
    assert done.returncode == 0, done.stderr
    rows = metrics(tmp_path / "run")
    assert [("eval_loss" in row, "modules" in row) for row in rows] == [(False, False), (True, True)] * 2
    last = rows[-1]
    total = sum(module["grad_norm"] ** 2 for module in last["modules"].values()) ** 0.5
    assert total == pytest.approx(last["grad_norm"], rel=1e-4)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {"digit_exact", "digit_f1", "digit_anls", "loss"} <= set(results)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["best"]["value"] == min(row["eval_loss"] for row in rows if "eval_loss" in row)
    assert record["best"]["value"] == pytest.approx(results["loss"]) and "best: " in done.stdout
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert "You read." in (newest / "chat_template.jinja").read_text()
    assert "<|seven|>" in (newest / "tokenizer.json").read_text()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_a_report_without_its_package_is_refused_before_anything_is_loaded(tmp_path):
    missing = next((name for name in REPORTERS if find_spec(name) is None), None)
    if missing is None:
        pytest.skip("every package that report_to may name is installed here")
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"model_name_or_path": "no such folder", "output_dir": str(tmp_path / "run")})
    )
    assert_refused(train(config, "--report_to", missing), 2, missing, f"pip install {missing}")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_noise_and_patience_survive_a_kill_bit_for_bit(tmp_path):
    config = written(
        tmp_path,
        neftune=True,
        evaluation_strategy="steps",
        eval_steps=2,
        eval_with_do_generation=False,
        early_stopping_patience=2,
        early_stopping_threshold=100.0,
        packing=True,
    )
    runs = [tmp_path / name for name in ("undisturbed", "killed", "quiet")]
    done = train(config, "--output_dir", runs[0])
    assert done.returncode == 0 and "stopped early at step 6: loss has not improved" in done.stderr, (
        done.stderr
    )
    killed = train(config, "--output_dir", runs[1], env={"MIX_KILL_AT": "step:5"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = train(config, "--output_dir", runs[1], "--resume", "auto")
    assert done.returncode == 0 and "stopped early at step 6" in done.stderr, done.stderr
    assert [row["loss"] for row in metrics(runs[0])] == [row["loss"] for row in metrics(runs[1])]
    assert digests(runs[0] / "checkpoint-6") == digests(runs[1] / "checkpoint-6")
    done = train(config, "--output_dir", runs[2], "--neftune", "false", "--max_steps", 1)
    assert metrics(runs[2])[0]["loss"] != metrics(runs[0])[0]["loss"], "the noise has a say"


@pytest.mark.slow
def test_the_best_weights_come_back_at_the_end(tmp_path):
    """With the highest loss called the best one, it is the first evaluation's."""
    config = written(
        tmp_path,
        evaluation_strategy="steps",
        eval_steps=2,
        eval_with_do_generation=False,
        metric_for_best_model="loss",
        greater_is_better=True,
        load_best_model_at_end=True,
        save_strategy="no",
        save_total_limit=1,
    )
    done = train(config, env={"MIX_KILL_AT": "end"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = tmp_path / "run"
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-2", "checkpoint-8"]
    done = train(config, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    first = next(row["eval_loss"] for row in metrics(run) if "eval_loss" in row)
    assert json.loads((run / "results.json").read_text())["loss"] == first
    best = json.loads((run / "run.json").read_text())["best"]
    assert best["checkpoint"].endswith("checkpoint-2") and best["value"] == first and best["loaded"]


@pytest.mark.slow
def test_tensorboard_beside_the_metrics_of_a_run(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="the package tensorboard is not installed (extra [tensorboard])"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = written(tmp_path, report_to="tensorboard", eval_max_new_tokens=4, max_steps=3)
    done = train(config)
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(tmp_path / "run/curves/tensorboard"))
    events.Reload()
    shown = [event.value for event in events.Scalars("train/loss")]
    assert shown == pytest.approx([row["loss"] for row in metrics(tmp_path / "run")], rel=1e-6)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert events.Scalars("eval/loss")[-1].value == pytest.approx(results["loss"], rel=1e-6)
