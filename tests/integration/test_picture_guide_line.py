"""The Ascend guide's SDXL adapter line as a new user types it: local pictures, fp16, a simulated NPU; then a
picture drawn with what it learned."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.numpy import load_file

from mix_core.device import native
from mix_core.inference.text_to_image.engine import load_engine
from tests.environment import run_simulated
from tests.integration.migrating_lines import read_lines, write_captioned_pictures
from tests.integration.training_runs import metrics
from tests.parity.picture_peer import make_whole_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1]),
]
PROMPT = "cute dragon creature"
MEAN = 3.0
"""How far a picture of float16 may be from float32's on average, of 255."""


def the_line() -> list[str]:
    """Behind `python -m mix_core.train`, as docs/migrating.md has it, for small pictures."""
    lines = read_lines()["Ascend guide: training of pictures"]
    (command,) = next(line.here for line in lines if "train_text_to_image_lora_sdxl.py" in line.there)
    words = shlex.split(command)[3:]
    words[words.index("--resolution") + 1] = "32"
    return words


def test_the_guides_adapter_line_and_a_picture(tmp_path: Path) -> None:
    make_whole_pipeline("sdxl", tmp_path / "stable-diffusion-xl-base-1.0")
    (tmp_path / "sdxl-vae-fp16-fix").symlink_to(tmp_path / "stable-diffusion-xl-base-1.0/vae")
    write_captioned_pictures(tmp_path / "naruto-blip-captions")
    words = the_line()
    assert {"--lora", "fp16", "npu"} <= set(words)
    done = run_simulated(["-m", "mix_core.train", *words, "--simulate", "--validation_steps", "2"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / words[words.index("--output_dir") + 1]
    assert all(np.isfinite(line["loss"]) for line in metrics(run) if "loss" in line)
    assert {one["question"] for one in json.loads((run / "gallery.json").read_text())} == {PROMPT}
    (last,) = run.glob("checkpoint-*/pytorch_lora_weights.safetensors")
    learned = [values for name, values in load_file(last).items() if "lora_B" in name]
    assert learned and all(np.abs(values).max() > 0 for values in learned)

    asked = {"steps": 3, "guidance": 3.0, "seed": 1, "width": 32, "height": 32}
    options = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
    model = ["--model", "stable-diffusion-xl-base-1.0", "--lora", run.name, "--prompt", PROMPT, *options]
    chip = ["--dtype", "float16", "--device", "npu", "--simulate", "--out", "dragon.png"]
    done = run_simulated(["-m", "mix_core.cli.main", "infer", *model, *chip], tmp_path)
    assert done.returncode == 0, done.stderr
    engine = load_engine(tmp_path / "stable-diffusion-xl-base-1.0", "cpu", lora=run)
    (expected,) = engine.generate(PROMPT, progress=False, **asked)
    with Image.open(tmp_path / "dragon.png") as drawn:
        away = np.abs(np.asarray(drawn, np.int16) - np.asarray(expected, np.int16))
    assert away.mean() <= MEAN and np.asarray(expected).std() > 5
