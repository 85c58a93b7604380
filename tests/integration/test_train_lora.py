"""Adapters as a user trains, resumes, merges and asks them: the real commands on the digits."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mix_core
from mix_core.device import native
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.adapter_files import read_adapter
from mix_core.models.common.tensor_files import read_header
from mix_core.training.state import checksum
from tests.builders.checkpoints import write_checkpoint
from tests.environment import run_simulated
from tests.integration.training_runs import assert_refused, metrics, train

STEPS = 4
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "training_state/optimizer-00001-of-00001.safetensors",
)
MERGER = {
    f"visual.merger.{name}"
    for name in ("ln_q.weight", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Packed rows, two passes a step, recomputation, dropout; the projector learns as a whole."""
    folder = tmp_path_factory.mktemp("lora")
    write_checkpoint(folder / "model", weights=True)
    keys = {
        "model_name_or_path": str(folder / "model"),
        "bundled_data": "digits",
        "max_samples": 60,
        "mixtoken": True,
        "max_length": 128,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "recompute": True,
        "learning_rate": 1e-2,
        "max_steps": STEPS,
        "save_steps": 2,
        "logging_steps": 1,
        "do_eval": False,
        "freeze_mlp": False,
        "lora": True,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "use_dora": True,
        "lora_target_modules": ["q_proj", r"model\.layers\.\d+\.mlp\.(up|down)_proj", "attn.qkv"],
    }
    (folder / "config.json").write_text(json.dumps(keys))
    return folder / "config.json"


def sums(checkpoint: Path) -> dict[str, str]:
    return {name: checksum(checkpoint / name) for name in FILES}


@pytest.fixture(scope="module")
def whole(config) -> Path:
    """The run folder of a run that nothing disturbed."""
    before = checksum(config.parent / "model/model.safetensors")
    done = train(config, "--output_dir", config.parent / "whole")
    assert done.returncode == 0, done.stderr
    assert checksum(config.parent / "model/model.safetensors") == before
    (config.parent / "whole.txt").write_text(done.stderr)
    return config.parent / "whole"


def command(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mix_core.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )


def test_a_checkpoint_holds_what_learned_and_nothing_else(config, whole):
    checkpoint = whole / f"checkpoint-{STEPS}"
    assert sorted(path.name for path in checkpoint.iterdir()) == [*FILES[:2], "training_state"]
    adapter = read_adapter(checkpoint)
    assert {name.split(".")[-1] for name in adapter.maps} == {"q_proj", "up_proj", "down_proj", "qkv"}
    assert set(adapter.whole) == MERGER and adapter.base == str(config.parent / "model")
    state = read_header(checkpoint / FILES[2])
    assert all(
        ".adapters.0." in name or name.split("optimizer.")[1].split(".", 1)[1] in MERGER for name in state
    )
    losses = [row["loss"] for row in metrics(whole)]
    assert len(losses) == STEPS and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    record = json.loads((whole / "run.json").read_text())["model"]
    rows = [line.split() for line in (config.parent / "whole.txt").read_text().splitlines()]
    table = {
        row[0]: [int(cell.replace(",", "")) for cell in row[1:]]
        for row in rows
        if len(row) == 3 and row[0] in ("adapters", "model.layers", "visual.merger.mlp", "all")
    }
    assert table["all"] == [record["parameters"], record["learning"]]
    assert table["model.layers"][1] == 0 and table["adapters"][0] == table["adapters"][1] > 0
    assert table["visual.merger.mlp"][0] == table["visual.merger.mlp"][1]


def test_killed_and_resumed_ends_with_the_same_bits(config, whole, tmp_path):
    run = tmp_path / "run"
    killed = train(config, "--output_dir", run, env={"MIX_KILL_AT": "step:3"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = train(config, "--output_dir", run, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert sums(run / f"checkpoint-{STEPS}") == sums(whole / f"checkpoint-{STEPS}")
    assert [row["loss"] for row in metrics(run)] == [row["loss"] for row in metrics(whole)]


def test_merged_and_asked(config, whole, tmp_path):
    model, out = config.parent / "model", tmp_path / "merged"
    words = ("--model_name_or_path", model, "--lora_path", whole, "--merge_model_path", out)
    done = command("merge-lora", *words)
    assert done.returncode == 0, done.stderr
    assert "8 maps merged" in done.stdout or "maps merged, weights in float32" in done.stdout
    assert done.stdout.rstrip().endswith(f"done: {out}")
    assert_refused(command("merge-lora", *words), 2, f"{out} is there already")
    engine = mix_core.load(model, "cpu", lora={"digits": whole, "again": whole / "checkpoint-2"})
    merged = mix_core.load(out, "cpu")
    ids = np.arange(12).reshape(1, -1)
    by_name = {}
    for name in ("digits", "again", None):
        engine.set_adapter(name)
        by_name[name] = engine.forward(ids)
    assert engine.adapters == ["digits", "again"] and engine.adapter is None
    largest = np.abs(by_name["digits"]).max()
    assert np.abs(merged.forward(ids) - by_name["digits"]).max() < 1e-5 * largest
    assert np.abs(by_name["again"] - by_name["digits"]).max() > 1e-3 * largest
    assert np.array_equal(mix_core.load(model, "cpu").forward(ids), by_name[None])
    with pytest.raises(BadInputError, match="no adapter is called 'x'; there are: digits, again"):
        engine.set_adapter("x")
    asked = ("--model", model, "--lora", f"d={whole}", "--prompt", "Which digit?", "--max_new_tokens", 2)
    assert json.loads(command("infer", *asked, "--json").stdout)["new_tokens"] >= 1


def test_an_adapter_for_another_model_is_refused(config, whole, tmp_path):
    other = write_checkpoint(tmp_path / "other", weights=True, seed=3)
    wider = write_checkpoint(tmp_path / "wider", weights=True, text={"intermediate_size": 192})
    with pytest.raises(WeightsError, match="the same shapes and other weights"):
        mix_core.load(other, "cpu", lora=whole)
    with pytest.raises(WeightsError, match=r"is an adapter for another model \(.*/model\): .* has shape"):
        mix_core.load(wider, "cpu", lora=whole)
    with pytest.raises(BadInputError, match="merge it first"):
        mix_core.load(other, "cpu", lora=whole, weights="int8")
    with pytest.raises(BadInputError, match="two adapters are called a"):
        mix_core.load(other, "cpu", lora=[f"a={whole}", f"a={whole}"])
    refused = command("merge-lora", "--model", other, "--lora", whole, "--out", tmp_path / "no")
    assert_refused(refused, 2, "is an adapter for another model")
    assert not (tmp_path / "no").exists() and not list(tmp_path.glob(".no*"))


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("bf16=true", "fp16_opt_level=O2"),
        ("bf16=true", "fp16_opt_level=O1"),
        ("fp16=true", "fp16_opt_level=O2"),
    ],
    ids=["float32", "bfloat16 O2", "bfloat16 O1", "float16 O2"],
)
def test_on_a_simulated_chip(config, whole, tmp_path, words):
    def on_chip(run: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        line = ["-m", "mix_core.train", config, "--output_dir", run, "--device", "npu", *words, *more]
        return run_simulated(line, tmp_path, **env)

    done = on_chip(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in metrics(tmp_path / "run")]
    assert losses == pytest.approx([row["loss"] for row in metrics(whole)], rel=0.05 if words else 1e-4)
    killed = on_chip(tmp_path / "broken", MIX_KILL_AT="step:3")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = on_chip(tmp_path / "broken", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert sums(tmp_path / "broken/checkpoint-4") == sums(tmp_path / "run/checkpoint-4")
    dtypes = {tensor.dtype for tensor in read_header(tmp_path / "run/checkpoint-4" / FILES[1]).values()}
    assert dtypes == (
        {"F32"} if "fp16_opt_level=O2" not in words else {"BF16" if "bf16=true" in words else "F16"}
    )


@pytest.fixture(scope="module")
def over_int8(config, tmp_path_factory) -> tuple[Path, list[float]]:
    """The run folder of a run over weights in 8 bits, and the losses of the same run over float32."""
    folder = tmp_path_factory.mktemp("int8")
    keys = json.loads(config.read_text()) | {"use_dora": False}
    (folder / "config.json").write_text(json.dumps(keys))
    for run, words in (("floats", ()), ("int8", ("weight_quantize_algo=weight_only_int8",))):
        done = train(folder / "config.json", "--output_dir", folder / run, *words)
        assert done.returncode == 0, done.stderr
    return folder / "int8", [row["loss"] for row in metrics(folder / "floats")]


@pytest.mark.slow
def test_over_weights_in_8_bits_it_learns_the_same_and_resumes(config, over_int8, tmp_path):
    whole, over_floats = over_int8
    losses = [row["loss"] for row in metrics(whole)]
    assert losses == pytest.approx(over_floats, rel=5e-3) and losses != over_floats
    record = json.loads((whole / "run.json").read_text())["model"]
    assert 0 < record["in_8_bits"] < record["parameters"]
    words = (whole.parent / "config.json", "--output_dir", tmp_path / "run")
    words += ("weight_quantize_algo=weight_only_int8",)
    killed = train(*words, env={"MIX_KILL_AT": "step:3"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = train(*words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    last = f"checkpoint-{STEPS}"
    assert sums(tmp_path / "run" / last) == sums(whole / last)


@pytest.mark.slow
def test_an_adapter_learned_over_8_bits_is_merged_into_the_published_weights(config, over_int8, tmp_path):
    model, adapter = config.parent / "model", over_int8[0]
    words = ("--model", model, "--lora", adapter, "--out", tmp_path / "merged")
    done = command("merge-lora", *words)
    assert done.returncode == 0, done.stderr
    assert (
        f"learned over weights rounded by weight_only_int8; it is merged into those of {model}" in done.stdout
    )
    ids = np.arange(12).reshape(1, -1)
    adapted = mix_core.load(model, "cpu", lora=adapter).forward(ids)
    merged = mix_core.load(tmp_path / "merged", "cpu").forward(ids)
    assert np.abs(merged - adapted).max() < 1e-5 * np.abs(adapted).max()


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_weights_in_8_bits_on_chips_that_can_and_that_cannot(over_int8, tmp_path):
    whole, _ = over_int8

    def on_chip(device: str) -> subprocess.CompletedProcess[str]:
        words = ["-m", "mix_core.train", whole.parent / "config.json", "--output_dir", tmp_path / device]
        words += ["weight_quantize_algo=weight_only_int8", "--device", device]
        return run_simulated(words, tmp_path, device=device)

    done = on_chip("xpu")
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in metrics(tmp_path / "xpu")]
    assert losses == pytest.approx([row["loss"] for row in metrics(whole)], rel=1e-4)
    assert_refused(on_chip("npu"), 2, "device npu cannot keep weights in 8 bits in training")
