"""Text to image trained as a user does it, on small random models: adapters, DreamBooth, what is left behind.

Runs are started in this process by the command's own function: a process each would take several seconds.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers

from mix_core.inference.text_to_image import generate, load_pictures
from mix_core.inference.text_to_image.engine import load_engine
from mix_core.models.common.tensor_files import read_header
from mix_core.train import main
from tests.integration.training_runs import metrics
from tests.parity.picture_peer import TheirDraws, farthest, make_whole_pipeline

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SDXL and SD 1.5 of diffusers, and four pictures of several shapes with captions."""
    made = tmp_path_factory.mktemp("text to image")
    for kind in ("sd15", "sdxl"):
        make_whole_pipeline(kind, made / kind)
    rng = np.random.default_rng(0)
    (made / "pictures").mkdir()
    rows = []
    for i in range(4):
        pixels = rng.integers(0, 256, (40 if i < 2 else 60, 36, 3), np.uint8)
        Image.fromarray(pixels).save(made / f"pictures/{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"a handwritten {i}"}))
    (made / "pictures/metadata.jsonl").write_text("\n".join(rows))
    (made / "lacking").mkdir()
    (made / "lacking/metadata.jsonl").write_text(rows[0])
    shutil.copytree(made / "sd15", made / "misfit")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(made / "misfit/scheduler")
    return made


def words(folder: Path, kind: str, run: str, **keys: Any) -> list[str]:
    given = {
        "pretrained_model_name_or_path": folder / kind,
        "output_dir": folder / run,
        "device": "cpu",
        "resolution": SIDE,
        "train_batch_size": 2,
        "max_train_steps": 2,
        "checkpointing_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler": "constant",
        "seed": 3,
        "progress_bar": "false",
        **keys,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def train(folder: Path, kind: str, run: str, **keys: Any) -> Path:
    assert main(words(folder, kind, run, **keys)) == 0
    return folder / run


def same_picture(model: Any, theirs: Any, prompt: str) -> int:
    """The largest difference, of 255, of a picture that both draw from the same noise."""
    theirs.set_progress_bar_config(disable=True)
    import torch

    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": SIDE, "width": SIDE}
    expected = theirs(prompt, generator=torch.Generator().manual_seed(7), **options).images
    sizes = {"width": SIDE, "height": SIDE, "steps": 3, "guidance": 3.0}
    return farthest(generate(model, prompt, draws=TheirDraws(7), progress=False, **sizes), expected)


def test_adapters_of_sdxl_and_its_encoders_are_diffusers_own(folder: Path) -> None:
    """With gradient accumulation, kept latents, flips, buckets and a validation picture on the way."""
    run = train(
        folder,
        "sdxl",
        "lora",
        lora="true",
        rank=2,
        lora_alpha=4,
        train_text_encoder="true",
        train_data_dir=folder / "pictures",
        caption_column="text",
        random_flip="true",
        proportion_empty_prompts=0.2,
        cache_latents="true",
        aspect_ratio_buckets="true",
        bucket_step=8,
        gradient_checkpointing="true",
        gradient_accumulation_steps=2,
        validation_prompt="a handwritten one",
        validation_epochs=1,
        validation_steps=2,
        num_validation_images=1,
    )
    file = run / "checkpoint-2/pytorch_lora_weights.safetensors"
    parts = {name.partition(".")[0] for name in read_header(file)}
    assert parts == {"unet", "text_encoder", "text_encoder_2"}
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(folder / "sdxl", add_watermarker=False)
    before = same_picture(load_pictures(folder / "sdxl"), theirs, "a handwritten one")
    theirs.load_lora_weights(run / "checkpoint-2")
    ours = load_pictures(folder / "sdxl")
    assert same_picture(ours, theirs, "a handwritten one") > 2 >= before, "the adapter changes the picture"
    adapted = load_engine(folder / "sdxl", "cpu", lora=run / "checkpoint-2")
    assert same_picture(adapted.model, theirs, "a handwritten one") <= 2
    assert all(line["tflops"] > 0 for line in metrics(run) if "loss" in line)
    gallery = json.loads((run / "gallery.json").read_text())
    assert {one["task"] for one in gallery} == {"step 1", "step 2"}
    assert "Generated pictures" in (run / "report.html").read_text()


def test_dreambooth_keeps_a_class_and_leaves_a_model_that_diffusers_reads(folder: Path) -> None:
    run = train(
        folder,
        "sd15",
        "dreambooth",
        instance_data_dir=folder / "pictures",
        instance_prompt="a photo of sks digit",
        with_prior_preservation="true",
        class_data_dir=folder / "class",
        class_prompt="a photo of a digit",
        num_class_images=3,
        validation_steps=2,
        use_ema="true",
        learning_rate=1e-3,
    )
    assert len(list((folder / "class").glob("*.png"))) == 3
    lines = [line for line in metrics(run) if "loss" in line]
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(run / "checkpoint-2")
    ours = load_pictures(run / "checkpoint-2")
    assert same_picture(ours, theirs, "a photo of sks digit") <= 2
    before = diffusers.UNet2DConditionModel.from_pretrained(folder / "sd15/unet")
    moved = [
        not np.array_equal(*map(_values, pair)) for pair in zip(before.parameters(), theirs.unet.parameters())
    ]
    assert sum(moved) > 0.9 * len(moved)


def test_the_recipe_with_all_parts_of_sd3(tmp_path: Path) -> None:
    """Kept latents of a drawn autoencoder, T5 and two CLIP encoders; what was drawn is in the checkpoint."""
    argv = ["--recipe", "wiring-sd3", "--max_steps", "3", "--output_dir", str(tmp_path / "run")]
    assert main([*argv, "--device", "cpu", "--progress_bar", "false", "--validation_steps", "2"]) == 0
    checkpoint = tmp_path / "run/checkpoint-3"
    parts = {path.parent.name for path in checkpoint.glob("*/*.safetensors")} - {"training_state"}
    assert parts == {"transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"}
    one = load_pictures(checkpoint)
    pictures = generate(one, "a handwritten seven", steps=2, seed=1, num_images=2, progress=False)
    assert [picture.size for picture in pictures] == [(32, 32)] * 2


def _values(parameter: Any) -> np.ndarray:
    return parameter.detach().numpy()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"resolution": 30, "train_data_dir": "pictures"}, "multiple of"),
        ({"train_data_dir": "nowhere"}, "there is no folder"),
        ({"train_data_dir": "lacking"}, "lacks 1: 0.png (line 1)"),
        ({"train_data_dir": "pictures", "pretrained_model_name_or_path": "misfit"}, "follows a flow"),
        ({"train_data_dir": "pictures", "caption_column": "words"}, "no column 'words'"),
        ({}, "expected one of train_data_dir"),
        ({"train_data_dir": "pictures", "packing": "true"}, "packing has no say"),
        ({"train_data_dir": "pictures", "weighting_scheme": "mode"}, "weighting_scheme has no say"),
        ({"instance_data_dir": "pictures"}, "instance_prompt is missing"),
        ({"train_data_dir": "pictures", "class_prompt": "x"}, "is of DreamBooth"),
        ({"train_data_dir": "pictures", "pretrained_vae_model_name_or_path": "other"}, "channels"),
        ({"train_data_dir": "pictures", "lora": "true", "lora_path": "wrong"}, "differ in"),
    ],
)
def test_bad_input_is_one_line(folder: Path, keys: dict[str, Any], says: str, capsys: Any) -> None:
    if "pretrained_vae_model_name_or_path" in keys:
        from tests.parity.diffusion_peer import random_peer

        random_peer("VAE of 16 channels").save_pretrained(folder / "other")
    if "lora_path" in keys:
        from safetensors.numpy import save_file

        (folder / "wrong").mkdir()
        values = {"unet.conv.lora_A.weight": np.zeros((2, 2), np.float32)}
        save_file(values, folder / "wrong/pytorch_lora_weights.safetensors")
    named = ("train_data_dir", "instance_data_dir", "pretrained_vae_model_name_or_path", "lora_path")
    named = (*named, "pretrained_model_name_or_path")
    given = {key: folder / value if key in named else value for key, value in keys.items()}
    assert main(words(folder, "sd15", "refused", **given)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and says in errors[0], errors


def test_picture_keys_are_refused_for_a_language_model(tmp_path: Path, capsys: Any) -> None:
    from tests.builders.checkpoints import write_checkpoint

    write_checkpoint(tmp_path / "model")
    argv = ["--model_name_or_path", str(tmp_path / "model"), "--snr_gamma", "5", "--data_path", "x.json"]
    assert main([*argv, "--output_dir", str(tmp_path / "run")]) == 2
    assert "snr_gamma is of text-to-image training" in capsys.readouterr().err
