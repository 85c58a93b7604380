"""The programs of benchmarks/ start, end and print what they promise; what they measure is nobody's test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mix_core.device import cpu, native
from tests.environment import clean_environment, run_simulated, with_plugins

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT = ("--size", "tiny", "--seq", "96", "--steps", "1", "--decode", "2")
MEASURED = {"step_ms", "train_tok_s", "rss_mib", "prefill_ms", "decode_tok_s"}


def start(folder: Path, *words: str, plugins: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / words[0]), *words[1:]]
    environ = clean_environment()
    if plugins:
        environ = with_plugins(environ, plugins, folder / "site")
    return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, timeout=240)


def lines(folder: Path, *words: str, plugins: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    done = start(folder, *words, plugins=plugins)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_training_step_beside_its_peer(tmp_path):
    ours, peer, ratios = lines(tmp_path, "train_step.py", *SHORT, "--peer")
    assert set(ours) == set(peer) > MEASURED
    assert ours["params"] == peer["params"]
    # one architecture, two random initialisations: the loss of either is near that of guessing
    assert ours["loss"] == pytest.approx(peer["loss"], rel=0.05)
    assert set(ratios) == {f"ratio_{name}" for name in MEASURED}
    assert ratios["ratio_step_ms"] == pytest.approx(peer["step_ms"] / ours["step_ms"])
    assert ratios["ratio_decode_tok_s"] == pytest.approx(ours["decode_tok_s"] / peer["decode_tok_s"])


@pytest.mark.slow
def test_steps_of_llava_beside_their_peer(tmp_path):
    printed = lines(
        tmp_path, "llava_step.py", "--size", "tiny", "--seq", "352", "--steps", "1", "--rank", "2"
    )
    for kind, (ours, peer, share) in zip(("full", "lora"), (printed[:3], printed[3:]), strict=True):
        assert ours["kind"] == peer["kind"] == share["kind"] == kind
        assert ours["learning"] == peer["learning"] > 0
        assert ours["loss"] == pytest.approx(peer["loss"], rel=0.05)
        assert share["time"] == pytest.approx(ours["step_ms"] / peer["step_ms"])
        assert share["memory"] == pytest.approx(ours["peak_mib"] / peer["peak_mib"])
    assert printed[0]["learning"] > 20 * printed[3]["learning"]


def test_a_row_too_short_for_the_picture_is_refused(tmp_path):
    done = start(tmp_path, "llava_step.py", "--seq", "300")
    assert done.returncode != 0 and done.stderr == "--seq is 300, expected 342 or more\n"


def test_products_in_bfloat16(tmp_path):
    done = start(tmp_path, "train_step.py", *SHORT, "--dtype", "bfloat16")
    if cpu.narrow_products() and native.find_compiler()[0]:
        line = json.loads(done.stdout)
        assert line["dtype"] == "bfloat16" and math.isfinite(line["loss"])
    else:
        assert done.returncode == 2
        assert "dtype is bfloat16, but device cpu computes in float32" in done.stderr


def test_int8_weights_beside_float32(tmp_path):
    short = ("--size", "tiny", "--seq", "96", "--decode", "4", "--rounds", "1")
    exact, rounded, both = lines(tmp_path, "int8.py", *short)
    assert (exact["weights"], rounded["weights"]) == ("float32", "int8")
    assert both["ratio_weight_mib"] == pytest.approx(exact["weight_mib"] / rounded["weight_mib"])
    assert both["ratio_weight_mib"] > 1.5 and both["ratio_decode_tok_s"] > 0
    # rounding to 8 bits shows, and is not mistaken for another model
    assert 1e-4 < both["logits_error"] < 0.1
    assert 0 <= both["same_answer_tokens"] <= both["of_tokens"] == 5


def test_int8_weights_of_a_folder_that_is_none(tmp_path):
    done = start(tmp_path, "int8.py", "--model", "./none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no folder ./none" in done.stderr


def test_packed_samples_beside_padded_and_dense_ones(tmp_path):
    printed = lines(tmp_path, "packed.py", "--size", "tiny", "--mean", "8", "--steps", "1", "--peer")
    *ours, padded, dense, ratios = printed
    assert [line["tokens"] for line in ours] == [64, 128, 256]
    assert [line["form"] for line in (*ours, padded, dense)] == ["packed"] * 3 + ["padded", "dense"]
    # 32 rows as long as the longest sample, of 18 tokens
    assert (padded["places"], dense["places"], ours[-1]["places"]) == (32 * 18, 256, 256)
    assert ours[-1]["loss"] == pytest.approx(padded["loss"], rel=0.05)
    expected = {f"ratio_{form}_{key}" for form in ("padded", "dense") for key in ("step_ms", "rss_mib")}
    assert set(ratios) == expected | {"growth_128", "growth_256"}
    assert ratios["ratio_padded_step_ms"] == pytest.approx(padded["step_ms"] / ours[-1]["step_ms"])


def test_a_number_of_samples_that_does_not_fit_is_refused(tmp_path):
    done = start(tmp_path, "packed.py", "--samples", "12")
    assert done.returncode != 0 and done.stderr == "--samples is 12, expected a multiple of 8\n"


def test_a_profile_of_a_step_and_its_picture(tmp_path):
    for kernels in ("reference", "auto"):
        words = ("--size", "tiny", "--seq", "96", "--steps", "1", "--kernels", kernels)
        done = start(tmp_path, "profile_step.py", *words, "--out", f"{kernels}.json")
        assert done.returncode == 0, done.stderr
        profile = json.loads((tmp_path / f"{kernels}.json").read_text())
        parts = profile["parts_ms"]
        assert sum(parts.values()) == pytest.approx(profile["step_ms"], rel=0.01)
        # every kind is seen, and most of the step belongs to one
        assert all(milliseconds > 0 for milliseconds in parts.values()), parts
        assert parts["the rest"] < 0.6 * profile["step_ms"]
    drawn = start(tmp_path, "profile_step.py", "--draw", "step.svg", "reference.json", "auto.json")
    assert drawn.returncode == 0, drawn.stderr
    picture = (tmp_path / "step.svg").read_text()
    root = ElementTree.fromstring(picture)
    words = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"reference", "auto", "products", "attention"} <= words
    assert {path.name for path in tmp_path.iterdir()} == {"reference.json", "auto.json", "step.svg"}


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_a_pipeline_s_step_and_its_picture(tmp_path):
    program = BENCHMARKS / "pipeline_step.py"
    for pieces in ("1", "2"):
        words = (
            "--virtual",
            pieces,
            "--passes",
            "3",
            "--seq",
            "96",
            "--steps",
            "1",
            "--out",
            f"{pieces}.json",
        )
        done = run_simulated([program, *words], tmp_path)
        assert done.returncode == 0, done.stderr
        measured = json.loads((tmp_path / f"{pieces}.json").read_text())
        computed = [one for one in measured["moments"] if one["kind"] in ("forward", "backward")]
        assert len(computed) == 2 * 2 * 3 * int(pieces)
        assert 0.0 < measured["computing"] <= 1.0
        assert all(0.0 <= one["start"] <= one["end"] <= measured["step_ms"] for one in computed)
    done = run_simulated([program, "--draw", "step.svg", "1.json", "2.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    words = texts_of(tmp_path / "step.svg")
    assert {"stage 0", "stage 1", "forward", "back", "waits for a message"} <= words


def texts_of(picture):
    root = ElementTree.fromstring(picture.read_text())
    return {element.text for element in root.iter() if element.tag.endswith("text")}


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_memory_by_rank_and_its_picture(tmp_path):
    layouts = ("one device", "tensor 2, pipeline 2")
    words = ("--size", "tiny", "--rows", "1", "--steps", "1", "--out", "memory.svg", "--layouts", *layouts)
    done = run_simulated([BENCHMARKS / "memory_by_rank.py", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    alone, shared = (json.loads(line)["peak_mib"] for line in done.stdout.splitlines())
    assert len(alone) == 1 and len(shared) == 4
    assert all(0 < peak < alone[0] for peak in shared)
    assert {*layouts, f"{alone[0]:.0f} MiB"} <= texts_of(tmp_path / "memory.svg")


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_what_ranks_read_and_hold_of_a_checkpoint(tmp_path):
    words = ("--gib", "0.1", "--hidden", "256", "--shard_mib", "32", "--divided")
    done = run_simulated([BENCHMARKS / "load_by_rank.py", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["shards"] > 2 and line["read_twice"] == 0
    assert sum(line["read_mib"]) == pytest.approx(line["tensors_mib"], abs=0.1)
    assert all(0 < held < 0.8 * line["tensors_mib"] for held in line["held_mib"])
    assert all(0 <= above <= line["shard_mib"] for above in line["device_above_mib"])


@pytest.mark.slow
def test_a_diffusion_step_beside_its_peer(tmp_path):
    ours, peer, ratios = lines(tmp_path, "diffusion_step.py", "--model", "sdxl", "--steps", "1", "--peer")
    assert ours["params"] == peer["params"]
    assert math.isfinite(ours["loss"]) and math.isfinite(peer["loss"])
    assert ratios["ratio_step_ms"] == pytest.approx(ours["step_ms"] / peer["step_ms"])
    assert ratios["ratio_rss_mib"] == pytest.approx(ours["rss_mib"] / peer["rss_mib"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sd3", "sdxl"])
def test_sampling_beside_its_peer(tmp_path, model):
    words = ("--model", model, "--task", "sample", "--steps", "1", "--sampling_steps", "3", "--peer")
    ours, peer, ratios = lines(tmp_path, "diffusion_step.py", *words)
    assert ours["params"] == peer["params"] and ours["sampling_ms"] > 0
    assert math.isfinite(ours["mean_square"]) and math.isfinite(peer["mean_square"])
    assert ratios["ratio_sampling_ms"] == pytest.approx(ours["sampling_ms"] / peer["sampling_ms"])


@pytest.mark.slow
def test_waits_for_samples_without_and_with_workers(tmp_path):
    short = ("--size", "tiny", "--steps", "2", "--photo", "320x240", "--kernels", "reference")
    found = lines(tmp_path, "data_wait.py", *short, "--workers", "0", "1")
    assert [line["workers"] for line in found] == [0, 1]
    for line in found:
        assert line["steps"] == 2 and 0 < line["data_ms"] < line["step_ms"] and 0 < line["data_wait"] < 1


def test_how_long_checkpoints_stop_training(tmp_path):
    words = ("--size", "tiny", "--seq", "96", "--steps", "6", "--every", "2", "--folder", str(tmp_path))
    (line,) = lines(tmp_path, "checkpoint_stall.py", *words)
    assert line["saves"] == 3 and line["buffer_mib"] == pytest.approx(line["params"] * 12 / 2**20, rel=0.05)
    assert line["ratio_stall"] == pytest.approx(line["stall_ms"] / line["copy_ms"])
    assert 0 < line["share"] < 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_backward_pass_hides_of_slow_sums(tmp_path):
    words = ("--size", "tiny", "--seq", "96", "--steps", "2", "--delay_ms", "0", "20")
    quick, slowed = lines(tmp_path, "overlap.py", *words, plugins=("mix_device_npu",))
    assert quick["messages"] == slowed["messages"] >= 1 and quick["hidden"] == 0
    shorter = slowed["plain_ms"] - slowed["overlap_ms"]
    assert slowed["hidden"] == pytest.approx(shorter / (20 * slowed["messages"]))
