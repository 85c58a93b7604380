"""16-bit training and inference on a simulated device, as a user starts them.

The CPU has no 16-bit arithmetic; the simulated device computes it in float32 and rounds, as a chip would.
"""

from __future__ import annotations

import json
import signal
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.device import native
from mix_core.models.common.tensor_files import read_folder, read_header
from mix_core.training.state import StateReader
from tests.builders.checkpoints import write_checkpoint
from tests.environment import run_simulated
from tests.integration.reciting_model import write_reciting_model
from tests.integration.training_runs import LARGE, STEPS, assert_refused, digests, metrics, write_inputs

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])

PROGRAMS = Path(__file__).parents[1] / "programs"
LIMITS = {"bfloat16": (2e-2, 4e-2), "float16": (3e-3, 6e-3)}
"""Forward and gradient, as docs/operators.md states them."""
DIGITS = ("--recipe", "digits", "--do_eval", "false", "--save_strategy", "no")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Two passes a step, dropout, recomputation."""
    folder = tmp_path_factory.mktemp("inputs")
    return write_inputs(folder, gradient_accumulation_steps=2, recompute=True, save_steps=2)


def train(
    config: Path, run: Path, *words: Any, device: str = "npu", **env: str
) -> subprocess.CompletedProcess[str]:
    command = ["-m", "mix_core.train", *([config] if config else []), "--output_dir", run, *words]
    return run_simulated(command, config.parent if config else run.parent, device=device, **env)


def weight_dtypes(checkpoint: Path) -> set[str]:
    return {stored.dtype for stored in read_folder(checkpoint).values()}


def check_resume(config: Path, folder: Path, place: str, *words: Any) -> Path:
    """A run killed at `place` and resumed ends with the bits of one that nothing disturbed -> its folder."""
    whole, broken = folder / "whole", folder / "broken"
    done = train(config, whole, *words)
    assert done.returncode == 0, done.stderr
    killed = train(config, broken, *words, MIX_KILL_AT=place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = train(config, broken, *words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    last = f"checkpoint-{STEPS}"
    assert digests(broken / last) == digests(whole / last)
    kept = [
        [
            [row.get(key) for key in ("step", "loss", "grad_norm", "loss_scale", "skipped")]
            for row in metrics(run)
        ]
        for run in (whole, broken)
    ]
    assert kept[0] == kept[1] and len(kept[0]) == STEPS
    return whole


def test_operators_hold_the_limits_of_the_contract_in_16_bits(tmp_path):
    done = run_simulated([PROGRAMS / "half_operators.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["operators"]) == 10 and seen["fallbacks"] == {}
    for name, by_dtype in seen["operators"].items():
        for dtype, found in by_dtype.items():
            forward, gradient = LIMITS[dtype]
            assert found["forward"] < forward and found["gradient"] < gradient, (name, dtype, found)
            statistic = ["paddle.float32"] if name == "linear_cross_entropy" else []
            assert found["dtypes"] == [f"paddle.{dtype}", *statistic], name


def test_float16_o2_skips_what_overflows_keeps_masters_and_resumes_with_the_same_bits(config, tmp_path):
    words = ("--fp16", "--fp16_opt_level", "O2", "--scale_loss", 2.0**24)
    run = check_resume(config, tmp_path, "step:5", *words)
    rows = metrics(run)
    skipped = [row for row in rows if row["skipped"]]
    assert 0 < len(skipped) < STEPS and rows[0]["loss_scale"] == 2.0**24
    assert all(row["grad_norm"] is None and row["loss"] > 0 for row in skipped)
    for before, after in pairwise(rows):
        assert after["loss_scale"] == before["loss_scale"] * (0.5 if before["skipped"] else 1.0)

    last = run / f"checkpoint-{STEPS}"
    assert json.loads((last / "config.json").read_text())["torch_dtype"] == "float16"
    assert weight_dtypes(last) == {"F16"}
    reader = StateReader(last)
    assert reader.manifest["state"]["loss_scale"]["good_steps"] > 0
    assert reader.manifest["state"]["optimizer_steps"] == STEPS - len(skipped)
    name = "model.layers.0.mlp.down_proj.weight"
    master = reader.read(f"optimizer.master.{name}")
    published = read_folder(last)[name].read_float32()
    assert master.dtype == np.float32
    np.testing.assert_array_equal(master.T.astype(np.float16).astype(np.float32), published)
    assert (published != master.T).mean() > 0.9, "masters hold more than the weights do"


def test_bfloat16_o1_publishes_float32_weights(config, tmp_path):
    done = train(
        config, tmp_path / "run", "--bf16", "--max_steps", 2, MIX_SIM_COUNTERS=str(tmp_path / "c.json")
    )
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run/checkpoint-2"
    assert json.loads((last / "config.json").read_text())["torch_dtype"] == "float32"
    assert weight_dtypes(last) == {"F32"}
    header = read_header(last / "training_state/optimizer-00001-of-00001.safetensors")
    assert not [name for name in header if name.startswith("optimizer.master.")]
    assert "loss_scale" not in metrics(tmp_path / "run")[0]
    counters = json.loads((tmp_path / "c.json").read_text())
    called = {f"{row['kernel']}:{row['dtype']}": row["calls"] for row in counters["kernels"]}
    assert called["matmul:bfloat16"] > 0 and called["softmax:float32"] > 0
    statistics = ("softmax", "exp", "log", "rsqrt", "mean", "sum", "squared_l2_norm")
    assert not [name for name in statistics if f"{name}:bfloat16" in called]
    assert [row for row in counters["kernels"] if row["fallbacks"]] == []


def test_gradients_that_overflow_at_the_lowest_scale_end_the_run(tmp_path):
    config = write_inputs(tmp_path, from_scratch=False)
    write_steep_model(tmp_path / "model")
    words = ("--fp16", "--fp16_opt_level", "O2", "--scale_loss", 2.0, "--freeze_vit", "true")
    done = train(config, tmp_path / "run", *words)
    line = assert_refused(done, 3, "step 2: the loss is", "at loss scale 1;", "gradient of", "not finite")
    assert "there is no checkpoint yet" in line
    assert (
        "step 1: gradients overflow float16 at loss scale 2, so there is no update; going on at 1"
        in done.stderr
    )
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def write_steep_model(folder: Path) -> None:
    """A model whose loss is moderate and whose gradient at the embedding is beyond float16.

    Tiny embeddings pass a norm with a huge weight: the root of eps (1e-3) and the weight make the slope.
    """
    import mix_core.device as device

    device.activate("cpu")
    from mix_core.models.registry import load_model

    write_checkpoint(folder, tie_word_embeddings=False)
    family, _, model = load_model(folder, random_init=True)
    for name, parameter in model.named_parameters():
        values = np.zeros(parameter.shape, np.float32)
        if name == "model.embed_tokens.weight":
            values = np.random.default_rng(0).standard_normal(parameter.shape).astype(np.float32) * 1e-6
        elif name == "lm_head.weight":
            values = np.random.default_rng(1).standard_normal(parameter.shape).astype(np.float32)
        elif name == "model.norm.weight":
            values += 6e4
        parameter.set_value(values)
    family.save_weights(model, folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_answer_in_16_bits_is_the_one_of_float32(tmp_path, dtype):
    folder = write_reciting(tmp_path / "model")
    words = ["-m", "mix_core.cli.main", "infer", "--model", folder, "--prompt", "?", "--dtype", dtype]
    done = run_simulated(words, tmp_path, device="xpu" if dtype == "bfloat16" else "npu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "seven"


def write_reciting(folder: Path) -> Path:
    import mix_core.device as device

    device.activate("cpu")
    return write_reciting_model(folder, "seven")


def test_level_o0_contradicts_a_16_bit_dtype(config, tmp_path):
    done = train(config, tmp_path / "run", "--bf16", "--fp16_opt_level", "O0")
    assert_refused(done, 2, "fp16_opt_level O0 computes in float32, but dtype is bfloat16", "O1 or O2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("--bf16",), "forward:4"),
        (("--bf16", "--fp16_opt_level", "O2"), "checkpoint-renamed:2"),
        (("--fp16", "--scale_loss", 2.0**24), "checkpoint-weights:3"),
    ],
    ids=["bf16-O1", "bf16-O2", "fp16-O1"],
)
def test_killed_and_resumed_ends_with_the_same_bits(config, tmp_path, words, place):
    check_resume(config, tmp_path, place, *words)


def test_parameters_updated_going_back_have_the_same_bits(tmp_path):
    """Parameters in bfloat16 with float32 masters, blocks computed again."""
    config = write_inputs(tmp_path, recompute=True, max_grad_norm=0, max_steps=4)
    write_checkpoint(tmp_path / "model", text=LARGE)
    words = ("--bf16", "--fp16_opt_level", "O2")
    behind, within = tmp_path / "behind", tmp_path / "within"
    for run, more in ((behind, ()), (within, ("--optimizer_in_backward", "true"))):
        done = train(config, run, *words, *more)
        assert done.returncode == 0, done.stderr
    assert digests(within / "checkpoint-4") == digests(behind / "checkpoint-4")
    rows = [[(row["loss"], row["grad_norm"]) for row in metrics(run)] for run in (behind, within)]
    assert rows[0] == rows[1] and len(rows[0]) == 4


@pytest.mark.slow
def test_a_float32_run_goes_on_from_masters(config, tmp_path):
    """Another precision on the way: what the masters hold beyond the weights is not lost."""
    run = tmp_path / "run"
    assert train(config, run, "--bf16", "--fp16_opt_level", "O2", "--max_steps", 4).returncode == 0
    done = train(config, run, "--resume", "auto", "--max_steps", 5, "--learning_rate", 0.0)
    assert done.returncode == 0 and "another dtype: float32, was bfloat16" in done.stderr, done.stderr
    name = "model.layers.0.mlp.down_proj.weight"
    master = StateReader(run / "checkpoint-4").read(f"optimizer.master.{name}")
    np.testing.assert_array_equal(read_folder(run / "checkpoint-5")[name].read_float32(), master.T)


@pytest.mark.slow
def test_the_curve_ends_where_that_of_float32_does(tmp_path):
    """The main job in short, from the same seed; docs/precision.md has longer ones."""
    ends = {}
    for name, words in {"f32": (), "o1": ("--bf16",), "o2": ("--bf16", "--fp16_opt_level", "O2")}.items():
        command = [*DIGITS, "--max_steps", "40", "--output_dir", tmp_path / name, *words]
        done = run_simulated(["-m", "mix_core.train", *command], tmp_path)
        assert done.returncode == 0, done.stderr
        ends[name] = float(np.mean([row["loss"] for row in metrics(tmp_path / name)][-10:]))
    assert ends["o1"] == pytest.approx(ends["f32"], rel=0.02)
    assert ends["o2"] == pytest.approx(ends["f32"], rel=0.02)
