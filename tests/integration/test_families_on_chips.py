"""InternVL2, LLaVA, Qwen-VL and Qwen2-VL begin to learn the digits on simulated chips as on the CPU.

Their own tests run the simulated npu in float32. Here one process trains all of them for a few steps, so that
a device starts once for each number type.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tiktoken", reason="Qwen-VL's vocabulary is read with tiktoken")

from mix_core.device import native
from tests.builders import qwen_vl_digits
from tests.environment import run_simulated
from tests.goldens import make_qwen2_vl_curve
from tests.integration import internvl2_runs, llava_runs
from tests.integration.training_runs import metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=str(native.find_compiler()[1])),
]
SERIES = Path(__file__).parents[1] / "programs" / "training_series.py"
STEPS = 3
FAMILIES: dict[str, Callable[..., Path]] = {
    "internvl2": internvl2_runs.write_run,
    "llava": lambda folder, **keys: llava_runs.write_run(folder, "1.6", **keys),
    "qwen_vl": qwen_vl_digits.write_run,
    "qwen2_vl": make_qwen2_vl_curve.write_run,
}
SHORT = {"max_steps": STEPS, "save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 2}
BFLOAT16 = ("--bf16", "true", "--fp16_opt_level", "O2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of each family, and what the CPU makes of them in `cpu`."""
    folder = tmp_path_factory.mktemp("chips")
    for name, write in FAMILIES.items():
        (folder / name).mkdir()
        write(folder / name, **SHORT)
    train_all(folder, "cpu")
    return folder


def train_all(folder: Path, device: str, *words: str, out: str = "") -> None:
    plugin, simulate = ("npu", "0") if device == "cpu" else (device, "1")
    done = run_simulated(
        [SERIES, device, folder, *FAMILIES, *words],
        folder,
        device=plugin,
        MIX_SIMULATE=simulate,
        SERIES_OUT=out or device,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def curves(folder: Path, out: str) -> dict[str, list[dict[str, Any]]]:
    keys = ("loss", "grad_norm", "learning_rate")
    return {
        name: [{key: line[key] for key in keys} for line in metrics(folder / name / out) if "loss" in line]
        for name in FAMILIES
    }


@pytest.mark.parametrize("device", ["xpu", "gpu"])
def test_in_float32_every_step_is_the_cpu_s(folder: Path, device: str) -> None:
    train_all(folder, device)
    expected = curves(folder, "cpu")
    assert all(len(steps) == STEPS for steps in expected.values())
    assert curves(folder, device) == expected


@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_in_bfloat16_the_losses_stay_near(folder: Path, device: str) -> None:
    train_all(folder, device, *BFLOAT16, out=f"{device}-half")
    expected, found = curves(folder, "cpu"), curves(folder, f"{device}-half")
    for name, steps in expected.items():
        losses, halves = ([step["loss"] for step in of] for of in (steps, found[name]))
        assert halves != losses, f"{name} computed in float32"
        np.testing.assert_allclose(halves, losses, rtol=0.02, err_msg=name)
