"""Text to image on two simulated devices: the losses and weights of one device with as many passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mix_core.device import native
from tests.builders.pictures import write_picture_model
from tests.environment import run_simulated
from tests.integration.training_runs import metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1]),
]
STEPS, RELATIVE = 4, 1e-5
KEYS = {
    "full": ("--use_ema", "--cache_latents", "--random_flip", "--snr_gamma", "5"),
    "adapter": ("--lora", "--rank", "2", "--train_text_encoder", "--proportion_empty_prompts", "0.3"),
}
FILES = {"full": "unet/diffusion_pytorch_model.safetensors", "adapter": "pytorch_lora_weights.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SD 1.5 and five pictures: the last step of an epoch has one pass, and one rank none."""
    made = tmp_path_factory.mktemp("picture ranks")
    write_picture_model(made / "model", "unet")
    (made / "pictures").mkdir()
    rows = []
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (36, 40, 3), np.uint8)
        Image.fromarray(pixels).save(made / f"pictures/{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"a handwritten {i}"}))
    (made / "pictures/metadata.jsonl").write_text("\n".join(rows))
    return made


def train(folder: Path, name: str, *words: str) -> Path:
    command = [
        *("-m", "mix_core.train", "--pretrained_model_name_or_path", folder / "model"),
        *("--train_data_dir", folder / "pictures", "--resolution", "32", "--train_batch_size", "1"),
        *("--max_train_steps", str(STEPS), "--learning_rate", "1e-3", "--lr_scheduler", "constant"),
        *("--adam_epsilon", "1e-6", "--seed", "3", "--progress_bar", "false", "--device", "npu"),
        *("--output_dir", folder / name, *words),
    ]
    done = run_simulated(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name


@pytest.mark.parametrize("what", KEYS)
def test_two_devices_learn_as_one(what: str, folder: Path) -> None:
    two = train(folder, f"{what}-two", "--devices", "0,1", *KEYS[what])
    one = train(folder, f"{what}-one", "--gradient_accumulation_steps", "2", *KEYS[what])
    found, wanted = ([line for line in metrics(run) if "loss" in line] for run in (two, one))
    assert len(found) == len(wanted) == STEPS
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in wanted], rel=RELATIVE)
    file = f"checkpoint-{STEPS}/{FILES[what]}"
    weights, others = load_file(two / file), load_file(one / file)
    assert weights.keys() == others.keys()
    for name, values in weights.items():
        assert np.linalg.norm(values - others[name]) <= RELATIVE * np.linalg.norm(others[name]), name
