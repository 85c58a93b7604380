"""LLaVA learns the digits: in full and with a frozen tower, on the CPU and on a simulated device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.device import native
from mix_core.models.common.tensor_files import read_folder
from tests.environment import ONE_THREAD, run_simulated
from tests.goldens.make_llava import FILE
from tests.integration.llava_runs import STEPS, losses, write_run
from tests.integration.training_runs import train

GOLDEN: dict[str, list[float]] = json.loads(FILE.read_text())
TOWER = "vision_tower."


@pytest.fixture(scope="module", params=[pytest.param("1.5", marks=pytest.mark.slow), "1.6"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The kind, and the folder of inputs with the run in it."""
    folder = tmp_path_factory.mktemp(f"llava-{request.param}")
    # as on the simulated device: products of another number of threads differ in their last bits
    done = train(write_run(folder, request.param), "--device", "cpu", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    return request.param, folder


def test_the_curve_is_the_golden_one(run) -> None:
    kind, folder = run
    found = losses(folder / "run")
    assert len(found) == STEPS and found[-1] < 0.6 * found[0]
    # processors and thread counts add up in other orders, and 20 steps of AdamW carry that on
    np.testing.assert_allclose(found, GOLDEN[kind], rtol=2e-3)


def test_the_checkpoint_loads_in_transformers(run) -> None:
    transformers = pytest.importorskip("transformers", reason="what reads it is transformers")
    kind, folder = run
    name = "LlavaNextForConditionalGeneration" if kind == "1.6" else "LlavaForConditionalGeneration"
    checkpoint = folder / "run" / f"checkpoint-{STEPS}"
    _, report = getattr(transformers, name).from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    assert ("image_grid_pinpoints" in settings) is (kind == "1.6")


def test_the_checkpoint_answers(run) -> None:
    import mix_core

    _, folder = run
    model = mix_core.load(folder / "run", device="cpu")
    row = json.loads((folder / "data" / "train.json").read_text())[0]
    question = row["messages"][0]["content"].removeprefix("<image>")
    text = model.generate(question, images=[folder / "data" / row["images"][0]], max_new_tokens=4)
    assert isinstance(text, str) and "<image>" not in text


def test_a_frozen_tower_stays_and_the_rest_learns(tmp_path: Path) -> None:
    config = write_run(tmp_path, "1.6", max_steps=3, save_steps=1, freeze_vit=True)
    done = train(config, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    first, last = (read_folder(tmp_path / "run" / f"checkpoint-{step}") for step in (1, 3))
    changed = {name for name in first if not np.array_equal(first[name].read(), last[name].read())}
    assert changed == {name for name in first if not name.startswith(TOWER)}
    assert {"image_newline", "multi_modal_projector.linear_1.weight"} < changed


def on_npu(folder: Path, name: str, *words: str) -> list[float]:
    command = ["-m", "mix_core.train", folder / "config.json", "--output_dir", folder / name]
    done = run_simulated([*command, "--device", "npu", *words], folder, timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return losses(folder / name)


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_the_simulated_device_gives_the_same_losses(run) -> None:
    _, folder = run
    assert on_npu(folder, "npu") == losses(folder / "run")


@pytest.mark.slow
@pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
def test_it_learns_in_bfloat16(run) -> None:
    kind, folder = run
    found = on_npu(folder, "half", "--bf16", "true", "--fp16_opt_level", "O2")
    assert found != losses(folder / "run")
    np.testing.assert_allclose(found, GOLDEN[kind], rtol=0.1)
