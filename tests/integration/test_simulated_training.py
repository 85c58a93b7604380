"""Training, resuming and inference on simulated chips, with the real plugins, against the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import native
from tests.environment import run_simulated
from tests.integration.training_runs import digests, metrics, write_inputs

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
TRAIN = ("-m", "mix_core.train")
PLACES = Path(__file__).parents[1] / "programs" / "training_places.py"
SAME = ("loss", "grad_norm", "learning_rate", "tokens")


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def curve(run: Path) -> list[dict]:
    return [{key: line[key] for key in SAME if key in line} for line in metrics(run) if "loss" in line]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of inputs, and in `cpu` what the CPU made of them."""
    folder = tmp_path_factory.mktemp("simulated")
    write_inputs(folder)
    words = [*TRAIN, folder / "config.json", "--output_dir", folder / "cpu", "--device", "cpu"]
    succeed(run_simulated(words, folder, MIX_SIMULATE="0"))
    return folder


def train_on(device: str, folder: Path, name: str, *words: str, **variables: str) -> Path:
    command = [*TRAIN, folder / "config.json", "--output_dir", folder / name, "--device", device, *words]
    succeed(run_simulated(command, folder, device=device, **variables))
    return folder / name


@pytest.fixture(scope="module")
def on_npu(on_cpu: Path) -> Path:
    return train_on("npu", on_cpu, "npu", MIX_SIM_COUNTERS=str(on_cpu / "counters.json"))


def last_checkpoint(run: Path) -> Path:
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def test_the_curve_is_the_cpu_s_to_the_bit(on_cpu, on_npu):
    assert len(curve(on_npu)) == 8 and curve(on_npu) == curve(on_cpu / "cpu")
    assert digests(last_checkpoint(on_npu)) == digests(last_checkpoint(on_cpu / "cpu"))


def test_a_run_moves_to_another_device(on_cpu):
    words = [*TRAIN, on_cpu / "config.json", "--output_dir", on_cpu / "moved", "--device", "npu"]
    words += ["--resume", on_cpu / "cpu" / "checkpoint-6"]
    done = succeed(run_simulated(words, on_cpu, device="npu"))
    assert (
        "checkpoint-6 was written on another kind of device: its random state is passed over" in done.stderr
    )
    assert curve(on_cpu / "moved") == curve(on_cpu / "cpu")[6:]
    weights = [digests(run / "checkpoint-8") for run in (on_cpu / "moved", on_cpu / "cpu")]
    assert weights[0] == weights[1]


def test_the_run_says_that_it_was_simulated(on_npu):
    about = json.loads((on_npu / "run.json").read_text())["device"]
    assert (about["name"], about["place"], about["simulated"]) == ("npu", "npu:0", True)
    settings = {row["name"]: row for row in about["settings"]}
    assert settings["FLAGS_npu_jit_compile"]["value"] == "0"
    assert settings["MIX_SIM_TYPE"] | {"reason": ""} == settings["MIX_SIM_TYPE"] | {
        "value": "npu",
        "source": "simulation",
        "reason": "",
    }
    assert "simulated, not the chip" in (on_npu / "report.html").read_text()
    stand_in = [kernel for kernel in about["kernels"] if kernel["op"] == "rms_norm"]
    assert stand_in and "simulated" in stand_in[0]["reason"]


@pytest.mark.parametrize("words", [(), ("bf16=true", "fp16_opt_level=O2")], ids=["float32", "bfloat16 O2"])
def test_no_state_leaves_the_device(on_cpu, tmp_path, words):
    places = [PLACES, on_cpu / "config.json", "npu", f"output_dir={tmp_path / 'run'}", *words]
    seen = json.loads(succeed(run_simulated(places, tmp_path)).stdout.splitlines()[-1])
    assert seen["steps"] == 8 and seen["states"] > 100 and seen["gradients"] >= 8
    assert (seen["elsewhere"], seen["moved"]) == ([], [])


def test_nothing_fell_back_unseen(on_cpu, on_npu):
    counted = json.loads((on_cpu / "counters.json").read_text())
    fell_back = {row["kernel"] for row in counted["kernels"] if row["fallbacks"]}
    assert fell_back <= {"index_add", "set_value"}, "what the chip's table lacks or its black list names"
    assert counted["rejected"] == {} and counted["memory"][0]["peak"] > 1 << 20


def test_a_run_goes_on_to_the_same_end(on_cpu, on_npu):
    run = train_on("npu", on_cpu, "resumed", "--resume", str(on_npu / "checkpoint-6"))
    assert digests(last_checkpoint(run)) == digests(last_checkpoint(on_npu))


def answer(device: str, folder: Path, checkpoint: Path) -> str:
    words = ["infer", "--model", checkpoint, "--image", folder / "data" / "1.png", "--prompt", "What is it?"]
    words += ["--device", device, "--max_new_tokens", "8", "--json"]
    plugin, simulate = ("npu", "0") if device == "cpu" else (device, "1")
    done = run_simulated(["-m", "mix_core.cli.main", *words], folder, device=plugin, MIX_SIMULATE=simulate)
    return json.loads(succeed(done).stdout)["text"]


def test_the_checkpoint_answers_as_on_the_cpu(on_cpu, on_npu):
    checkpoint = last_checkpoint(on_npu)
    assert answer("npu", on_cpu, checkpoint) == answer("cpu", on_cpu, checkpoint) != ""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["xpu", "gpu"])
def test_other_chips_train_resume_and_answer(on_cpu, device):
    whole = train_on(device, on_cpu, device)
    assert curve(whole) == curve(on_cpu / "cpu")
    run = train_on(device, on_cpu, f"{device}-resumed", "--resume", str(whole / "checkpoint-6"))
    assert digests(last_checkpoint(run)) == digests(last_checkpoint(on_cpu / "cpu"))
    assert answer(device, on_cpu, last_checkpoint(run)) == answer("cpu", on_cpu, last_checkpoint(run)) != ""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_the_main_job_begins_as_on_the_cpu(tmp_path, device):
    words = [*TRAIN, "--recipe", "digits", "--max_steps", "20", "--do_eval", "false"]
    for name, simulate in (("cpu", "0"), (device, "1")):
        more = ["--device", name, "--output_dir", tmp_path / name]
        succeed(run_simulated([*words, *more], tmp_path, device=device, MIX_SIMULATE=simulate))
    assert len(curve(tmp_path / device)) == 20 and curve(tmp_path / device) == curve(tmp_path / "cpu")


def test_out_of_memory_is_one_line_and_code_3(on_cpu):
    words = [*TRAIN, on_cpu / "config.json", "--output_dir", on_cpu / "small", "--device", "npu"]
    done = run_simulated(words, on_cpu, MIX_SIM_MEMORY="3MiB")
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: out of memory on npu:0: ")
    assert "Traceback" not in done.stderr


def test_an_unaware_program_runs_there(tmp_path, start):
    code = (
        "import paddle; m = paddle.nn.Linear(4, 4); o = paddle.optimizer.SGD(0.1, m.parameters())\n"
        "for _ in range(3):\n"
        "    loss = m(paddle.ones([2, 4])).square().mean(); loss.backward(); o.step(); o.clear_grad()\n"
        "print(paddle.device.get_device(), m.weight.place, 'mix_core' in __import__('sys').modules)"
    )
    command = ["-m", "mix_core.cli.main", "run", "--device", "npu", "--simulate", "--", sys.executable, "-c"]
    done = start([*command, f"import paddle; paddle.set_device('npu'); {code}"], plugins=["mix_device_npu"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["npu:0", "Place(npu:0)", "False"]
    assert done.stderr == "" or "warn" in done.stderr.lower()
