"""Text to image on simulated devices: a seed draws the CPU's picture, float16 too, and overflow is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.inference.text_to_image import generate, load_pictures
from tests.builders.pictures import write_picture_model
from tests.environment import run_simulated

PROGRAM = Path(__file__).parents[1] / "programs" / "pictures.py"
FEW = {"seed": 5, "steps": 3, "width": 32, "height": 16}
MEAN = 3.0
"""How far a picture of float16 may be from float32's on average, of 255."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and one whose autoencoder outgrows float16, with force_upcast and without."""
    made = tmp_path_factory.mktemp("models")
    for part in ("transformer", "unet"):
        write_picture_model(made / part, part)
    _overflowing(made / "unet", made / "overflows", upcast=False)
    _overflowing(made / "unet", made / "upcast", upcast=True)
    return made


def _overflowing(source: Path, folder: Path, *, upcast: bool) -> None:
    """A decoder whose first map multiplies by 1e6; a group norm behind it takes that back in float32."""
    from mix_core.models.diffusion.network import load_network, save_network

    shutil.copytree(source, folder)
    vae = load_network(folder / "vae")
    vae.decoder.conv_in.weight.set_value(vae.decoder.conv_in.weight * 1e6)
    save_network(vae, folder / "vae")
    config = json.loads((folder / "vae/config.json").read_text())
    (folder / "vae/config.json").write_text(json.dumps(config | {"force_upcast": upcast}))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_a_seed_draws_the_same_picture(device: str, folders: Path, tmp_path: Path) -> None:
    done = run_simulated([PROGRAM, folders, tmp_path / "drawn.npz"], tmp_path, device=device, timeout_s=600)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert list(seen["refused"]) == ["overflows float16"]
    assert (
        "autoencoder gave numbers that are not finite in float16; give --vae"
        in seen["refused"]["overflows float16"]
    )
    assert seen["fallbacks"] == {}
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert len(drawn) == 7
        for name in ("transformer", "unet", "overflows", "upcast"):
            (picture,) = generate(load_pictures(folders / name), "a handwritten seven", **FEW)
            own = np.asarray(picture, np.int16)
            assert own.std() > 5
            assert np.abs(drawn[f"{name} float32"] - own).max() <= 2, name
            if name != "overflows":
                assert np.abs(drawn[f"{name} float16"] - own).mean() <= MEAN, name


@pytest.mark.slow
def test_the_command_on_a_simulated_device(folders: Path, tmp_path: Path) -> None:
    words = ["--model", folders / "unet", "--prompt", "a handwritten seven", "--out", tmp_path / "a.png"]
    few = ["--steps", "3", "--seed", "5", "--width", "32", "--height", "16"]
    chip = ["--device", "npu", "--simulate", "--dtype", "float16"]
    done = run_simulated(["-m", "mix_core.cli.main", "infer", *words, *few, *chip], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "a.png")
    (picture,) = generate(load_pictures(folders / "unet"), "a handwritten seven", **FEW)
    with Image.open(tmp_path / "a.png") as drawn:
        away = np.abs(np.asarray(drawn, np.int16) - np.asarray(picture, np.int16))
    assert away.mean() <= MEAN
