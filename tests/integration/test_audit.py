"""`mix-core audit` on real programs: a naive one has every gap known of the chip, our model none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import native
from tests.environment import clean_environment, with_plugins

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
NAIVE = Path(__file__).parents[1] / "programs" / "naive_vision.py"
KERNEL_KEYS = ["kernel", "dtype", "verdict", "missing", "calls", "bytes", "advice"]
KEYS = ["device", "table", "model", "mode", "dtype", "exit_code", "counts", "moved_bytes", "kernels"]


def audit(folder: Path, device: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environ = with_plugins(clean_environment(), [f"mix_device_{device}"], folder / "site")
    command = [sys.executable, "-m", "mix_core.cli.main", "audit", "--device", device, *map(str, arguments)]
    return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> dict:
    done = audit(tmp_path_factory.mktemp("naive"), "npu", "--json", "--", sys.executable, NAIVE)
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout)


def rows(audited: dict, verdict: str, missing: str | None) -> set[tuple[str, str]]:
    return {
        (row["kernel"], row["dtype"])
        for row in audited["kernels"]
        if (row["verdict"], row["missing"]) == (verdict, missing)
    }


def test_the_naive_program_has_every_gap_that_is_known(naive):
    stops = {"conv3d", "group_norm", "clip", "cumsum", "log_softmax", "nll_loss"}
    assert {(name, "bfloat16") for name in stops} <= rows(naive, "stops", "dtype")
    assert ("conv3d_grad", "bfloat16") in rows(naive, "stops", "dtype"), "gradients are kernels too"
    lacking = {("bernoulli", "float32"), ("bicubic_interp", "float32"), ("bicubic_interp_grad", "float32")}
    lacking |= {("unique_consecutive", "int32"), ("repeat_interleave", "int64")}
    lacking |= {("repeat_interleave_with_tensor_index", "int64")}
    assert lacking <= rows(naive, "falls back", "kernel")
    narrow = {("dropout", "bfloat16"), ("bilinear_interp", "bfloat16"), ("masked_select", "bfloat16")}
    assert narrow <= rows(naive, "falls back", "dtype")
    assert rows(naive, "black-listed", None) == {("set_value", "int64")}


def test_its_report_has_stable_keys_bytes_and_advice(naive):
    assert list(naive) == KEYS
    assert all(list(row) == KERNEL_KEYS for row in naive["kernels"])
    assert (naive["device"], naive["model"], naive["exit_code"]) == ("npu", None, 0)
    on_host = [row for row in naive["kernels"] if row["verdict"] in ("falls back", "black-listed")]
    assert naive["moved_bytes"] == sum(row["bytes"] for row in on_host)
    table = next(row for row in on_host if row["kernel"] == "bicubic_interp")
    assert table["bytes"] == 16 * (6 * 6 + 4 * 4) * 4, "the table read, the resized one written"
    assert all(bool(row["advice"]) == (row["verdict"] != "native") for row in naive["kernels"])


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize(
    ("device", "dtype"), [("npu", "bfloat16"), ("npu", "float32"), ("xpu", "bfloat16"), ("xpu", "float32")]
)
def test_our_model_calls_nothing_that_the_chip_lacks(tmp_path, device, dtype, mode):
    done = audit(tmp_path, device, "--model", "qwen2_5_vl", f"--{mode}", "--dtype", dtype, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    audited = json.loads(done.stdout)
    assert audited["counts"] == {
        "stops": 0,
        "black-listed": 0,
        "falls back": 0,
        "native": len(audited["kernels"]),
    }
    called = {(row["kernel"], row["dtype"]) for row in audited["kernels"]}
    assert ("matmul", dtype) in called
    gradients = {kernel for kernel, _ in called if kernel.endswith("_grad")}
    assert bool(gradients) == (mode == "train")
    assert (("adamw", "float32") in called) == (mode == "train"), "the step is taken, in float32"


def test_people_read_what_to_do(tmp_path):
    code = "import paddle\nx = paddle.ones([4, 4])\ny = paddle.bernoulli(x) * x\nprint('mine')"
    done = audit(tmp_path, "npu", "--", sys.executable, "-c", code)
    assert done.returncode == 1 and "mine" in done.stderr, "the program's own words are no result"
    lines = done.stdout.splitlines()
    assert lines[0].startswith("npu: the program calls ") and "PaddleCustomDevice" in lines[1]
    assert lines[2] == "1 would run on the CPU and move 128 B"
    assert lines[-1].startswith(
        "falls back (no such kernel)  bernoulli  float32  1      128 B  compare paddle"
    )


def test_a_program_that_fails_is_reported_as_far_as_it_came(tmp_path):
    code = "import paddle; paddle.bernoulli(paddle.ones([2])); raise SystemExit(5)"
    done = audit(tmp_path, "npu", "--", sys.executable, "-c", code)
    assert done.returncode == 3 and "bernoulli" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: the audited program ended with exit code 5; what it called before is above"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give either --model NAME or a program after --"),
        (["--model", "qwen2_5_vl", "--", "true"], 2, "give either --model NAME or a program after --"),
        (["--model", "nope"], 2, "no model family reads model_type 'nope'"),
        (["--model", "qwen2_5_vl", "--dtype", "int8"], 2, "--dtype is 'int8', expected float32, bfloat16"),
        (["--", "no-such-program"], 2, "'no-such-program' is no program in PATH"),
        (["--", "true"], 3, "no process of it used the device"),
        (["--device", "cpu", "--", "true"], 2, "an audit is about a chip, and the device is cpu"),
    ],
)
def test_refusals(tmp_path, arguments, code, said):
    done = audit(tmp_path, "npu", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
