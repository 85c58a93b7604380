"""Drawing with small random models: what repeats, what callers may change, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mix_core
from mix_core.cli.main import build_app, guarded
from mix_core.errors import BadInputError, WeightsError
from mix_core.inference.text_to_image import FAMILIES, PictureModel, generate, load_pictures
from mix_core.inference.text_to_image.geometry import Geometry
from tests.builders.pictures import UNET, write_network, write_picture_model

PROMPT = "a handwritten seven"
FEW: dict[str, Any] = {"steps": 3, "guidance": 3.0, "width": 32, "height": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`transformer`: over pixels, one text encoder; `unet`: with an autoencoder."""
    made = tmp_path_factory.mktemp("pictures")
    return {part: write_picture_model(made / part, part) for part in ("transformer", "unet")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, PictureModel]:
    return {part: load_pictures(folder) for part, folder in folders.items()}


def values(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(one, np.int16) for one in pictures])


def photo() -> Image.Image:
    rows, columns = np.mgrid[0:24, 0:40]
    return Image.fromarray(np.stack([rows * 9, columns * 6, rows + columns], -1).astype(np.uint8))


@pytest.mark.parametrize("part", ["transformer", "unet"])
def test_a_seed_gives_the_same_picture_alone_and_among_others(models: dict[str, PictureModel], part: str):
    model = models[part]
    several = values(generate(model, [PROMPT, "a cat"], num_images=2, seed=5, **FEW))
    assert several.shape == (4, 16, 32, 3) and several.std() > 5
    alone = values(generate(model, PROMPT, num_images=1, seed=5, **FEW))
    assert np.abs(alone[0] - several[0]).max() <= 1  # sums of other batches round otherwise
    assert np.abs(several[0] - several[1]).mean() > 1, "two pictures of a prompt differ"
    assert np.array_equal(several, values(generate(model, [PROMPT, "a cat"], num_images=2, seed=5, **FEW)))
    other = values(generate(model, PROMPT, seed=6, **FEW))
    assert np.abs(other[0] - several[0]).mean() > 1
    told = values(generate(model, PROMPT, seed=5, negative_prompt="a dog", **FEW))
    assert np.abs(told[0] - several[0]).max() > 0


def test_latents_stand_for_a_seed(models: dict[str, PictureModel]):
    from mix_core.schedulers import latent_noise

    model = models["unet"]
    given = latent_noise(model.geometry.latent_shape(16, 32), 5, 1)
    by_latents = values(generate(model, PROMPT, latents=given, **FEW))
    assert np.array_equal(by_latents, values(generate(model, PROMPT, seed=5, **FEW)))


def test_a_callback_sees_every_step_and_may_change_the_latents(models: dict[str, PictureModel], capsys):
    model, seen = models["transformer"], []

    def still(done: int, total: int, latents: Any) -> None:
        seen.append((done, total, latents.shape))

    plain = values(generate(model, PROMPT, callback=still, progress=True, **FEW))
    assert seen == [(i, 3, [1, 3, 16, 32]) for i in (1, 2, 3)]
    assert "steps" in capsys.readouterr().err
    changed = values(generate(model, PROMPT, callback=lambda done, total, z: z * 0.0, **FEW))
    assert np.unique(changed).tolist() == [128] and plain.std() > 5  # zeros are the middle grey


@pytest.mark.parametrize("part", ["transformer", "unet"])
def test_beginning_from_a_picture(models: dict[str, PictureModel], part: str):
    model = models[part]
    weak, strong = (
        values(generate(model, PROMPT, init_image=photo(), strength=strength, steps=4, guidance=1.0))
        for strength in (0.25, 1.0)
    )
    assert weak.shape == (1, 24, 40, 3)
    if part == "transformer":  # over pixels the picture itself shows through
        own = np.asarray(photo(), np.int16)
        assert np.abs(weak[0] - own).mean() < 0.5 * np.abs(strong[0] - own).mean()
    assert np.abs(weak - strong).mean() > 1


def test_what_a_mask_leaves_out_stays(models: dict[str, PictureModel]):
    mask = np.zeros((24, 40), np.uint8)
    mask[:, 20:] = 255
    drawn = values(generate(models["transformer"], PROMPT, init_image=photo(), mask=mask, steps=3))[0]
    own = np.asarray(photo(), np.int16)
    assert np.array_equal(drawn[:, :20], own[:, :20])
    assert np.abs(drawn[:, 20:] - own[:, 20:]).mean() > 5


def test_a_model_that_was_trained_with_masks(folders: dict[str, Path], tmp_path: Path):
    write_network(tmp_path, {**UNET, "in_channels": 9})
    model = load_pictures(folders["unet"], unet=tmp_path)
    drawn = generate(model, PROMPT, init_image=photo(), mask=photo(), **FEW)
    assert drawn[0].size == (32, 16)
    with pytest.raises(BadInputError, match="takes 9 channels, which are for inpainting: give init_image"):
        generate(model, PROMPT, **FEW)


def test_another_scheduler_over_the_same_noise(models: dict[str, PictureModel]):
    model = models["unet"]
    own = values(generate(model, PROMPT, **FEW))
    for kind in ("ddim", "euler", "dpm++", "ddpm"):
        drawn = values(generate(model, PROMPT, scheduler=kind, **FEW))
        assert np.abs(drawn - own).max() > 0, kind
        assert np.array_equal(drawn, values(generate(model, PROMPT, scheduler=kind, **FEW))), kind
    assert np.array_equal(own, values(generate(model, PROMPT, scheduler="pndm", **FEW)))


def test_tiles_are_for_one_call(models: dict[str, PictureModel]):
    model = models["unet"]
    whole = values(generate(model, PROMPT, **FEW))
    tiled = values(generate(model, PROMPT, tile=16, **FEW))
    assert np.abs(tiled - whole).max() > 0 and model.vae.tiles is None
    assert np.array_equal(whole, values(generate(model, PROMPT, **FEW)))


def test_parts_in_memory_draw_and_stay_in_training(models: dict[str, PictureModel]):
    of_folder = models["transformer"]
    model = PictureModel(FAMILIES["sd3"], of_folder.network, None, of_folder.prompts, of_folder.scheduler)
    model.network.train()
    try:
        drawn = values(generate(model, PROMPT, seed=1, **FEW))
        assert model.network.training
    finally:
        model.network.eval()
    assert np.array_equal(drawn, values(generate(of_folder, PROMPT, seed=1, **FEW)))


WRONG: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("unet", {"width": 30}, "width is 30, expected a multiple of 4; the nearest are 28 and 32"),
    ("transformer", {"height": 17}, "height is 17, expected a multiple of 2; the nearest are 16 and 18"),
    ("transformer", {"height": 64}, "height is 64, and the model has positions for 48 pixels"),
    ("unet", {"mask": "m.png"}, "mask is given without init_image"),
    ("unet", {"strength": 0.5}, "strength is given without init_image"),
    ("unet", {"steps": 0}, "steps is 0, expected a whole number of 1 or more"),
    (
        "unet",
        {"latents": np.zeros((1, 16, 4, 8))},
        r"latents have shape \(1, 16, 4, 8\), expected \(1, 4, 4, 8\)",
    ),
    ("unet", {"scheduler": "flow"}, "FlowMatchEulerDiscreteScheduler follows a flow"),
    ("transformer", {"scheduler": "ddim"}, "gives a flow's velocity.* give the scheduler 'flow'"),
    ("unet", {"scheduler": "heun"}, "there is no scheduler 'heun'; built are"),
    ("unet", {"sampler": "ddim"}, "generate has no option 'sampler'; there are prompt, negative_prompt"),
    ("unet", {"prompt": 3}, "prompt is 3, expected a text or several"),
    ("unet", {"guidance": 1.0, "negative_prompt": "x"}, "a negative prompt has no effect at a guidance of 1"),
    ("unet", {"negative_prompt": ["x"] * 3}, "1 prompts were given and 3 negative ones"),
    ("unet", {"init_image": "nothing.png"}, "image nothing.png: there is no such file"),
)


@pytest.mark.parametrize(("part", "options", "says"), WRONG, ids=[says[:24] for _, _, says in WRONG])
def test_what_does_not_fit_is_refused(models: dict[str, PictureModel], part: str, options: Any, says: str):
    given = {"prompt": PROMPT, **FEW, **options}
    with pytest.raises(BadInputError, match=says):
        generate(models[part], **given)


def test_parts_that_do_not_belong_together(folders: dict[str, Path], tmp_path: Path):
    with pytest.raises(
        BadInputError, match="takes 16 channels and gives 16, and the autoencoder's latents have 4"
    ):
        write_network(tmp_path / "unet", {**UNET, "in_channels": 16, "out_channels": 16})
        load_pictures(folders["unet"], unet=tmp_path)
    with pytest.raises(
        BadInputError, match=r"--unet .* holds a SD3Transformer2DModel, expected a UNet2DCond"
    ):
        load_pictures(folders["unet"], unet=folders["transformer"] / "transformer")
    shutil.copytree(folders["unet"], tmp_path / "copy")
    scheduler = folders["transformer"] / "scheduler/scheduler_config.json"
    shutil.copy(scheduler, tmp_path / "copy/scheduler/scheduler_config.json")
    with pytest.raises(BadInputError, match=r"follows a flow, and Stable Diffusion 1\.5 gives noise"):
        load_pictures(tmp_path / "copy")
    refiner = json.loads((folders["unet"] / "model_index.json").read_text())
    (tmp_path / "copy/model_index.json").write_text(json.dumps(refiner | {"requires_aesthetics_score": True}))
    with pytest.raises(BadInputError, match="SDXL's refiner, which is not built"):
        load_pictures(tmp_path / "copy")


def test_numbers_that_are_not_finite_are_named(folders: dict[str, Path]):
    model = load_pictures(folders["unet"])
    model.vae.decoder.conv_out.bias.set_value(np.full(3, np.inf, np.float32))
    with pytest.raises(BadInputError, match="the autoencoder gave numbers that are not finite in float32"):
        generate(model, PROMPT, **FEW)
    model.network.conv_out.bias.set_value(np.full(4, np.nan, np.float32))
    with pytest.raises(BadInputError, match="the unet gave numbers that are not finite in float32"):
        generate(model, PROMPT, **FEW)


def test_sizes_that_a_model_was_trained_with():
    class Vae:
        latent_channels, factor, sample_size = 16, 8, 1024

    class Network:
        in_channels, out_channels, sample_size, patch_size = 16, None, 128, 2

    assert Geometry(Network, Vae).usual_size == (1024, 1024)
    assert Geometry(Network, Vae).within(1000, 770) == (992, 768)
    assert Geometry(Network).latent_shape(64, 32) == (16, 64, 32)


class TestCommand:
    """`mix-core infer` with a model that draws; in this process, each run a few steps."""

    def run(self, *words: Any) -> int:
        argv = ["infer", *map(str, words)]
        return guarded(lambda: build_app()(args=argv, standalone_mode=False), argv)

    def test_it_writes_what_load_gives(self, folders: dict[str, Path], tmp_path: Path, capfd):
        few = ["--steps", 3, "--guidance", 3, "--width", 32, "--height", 16, "--seed", 5, "--device", "cpu"]
        model = ["--model", folders["unet"], "--prompt", PROMPT, *few]
        assert self.run(*model, "--out", tmp_path / "a.png") == 0
        engine = mix_core.load(folders["unet"], "cpu")
        expected = engine.generate(PROMPT, num_images=2, seed=5, **FEW)
        with Image.open(tmp_path / "a.png") as drawn:
            assert np.abs(values([drawn]) - values(expected[:1])).max() <= 1
        assert self.run(*model, "--num_images", 2, "--json", "--out", tmp_path / "b.png") == 0
        report = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert report["pictures"] == [str(tmp_path / f"b-{i}.png") for i in (1, 2)]
        for path, picture in zip(report["pictures"], expected):
            with Image.open(path) as drawn:
                assert np.array_equal(np.asarray(drawn), np.asarray(picture))

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--prompt", "x"], "draws pictures: give --prompt and --out, such as --out a.png"),
            (["--prompt", "x", "--out", "a.txt"], "--out a.txt: .txt is no picture format"),
            (["--prompt", "x", "--out", "a.png", "--image", "i.png"], "--image is for models that answer"),
            (["--prompt", "x", "--out", "a.png", "--top_k", "3"], "--top_k is for models that answer"),
            (["--prompt", "x", "--out", "a.png", "--mask", "m.png"], "mask is given without init_image"),
            (["--prompt", "x", "--out", "a.png", "--width", "30"], "width is 30, expected a multiple of 4"),
            (
                ["--prompt", "x", "--out", "a.png", "--lora", "no"],
                "no is no adapter of a text-to-image model",
            ),
            (["--prompt", "x", "--out", "a.png", "--vae", "no/no/no"], "there is no folder no/no/no"),
        ],
        ids=lambda one: one[:20] if isinstance(one, str) else one[-2],
    )
    def test_bad_input_is_one_line(self, folders: dict[str, Path], words: list[str], says: str, capfd):
        assert self.run("--model", folders["unet"], *words) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and says in errors[0]

    def test_options_of_pictures_are_refused_where_a_model_answers(self, tmp_path: Path, capfd):
        (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
        assert self.run("--model", tmp_path, "--prompt", "x", "--steps", 3) == 2
        assert "--steps is for models that draw" in capfd.readouterr().err


def test_an_adapter_for_another_family_is_refused(folders: dict[str, Path], models: Any, tmp_path: Path):
    from mix_core.inference.text_to_image.adapters import PictureAdapters
    from mix_core.models.common.tensor_files import Outgoing, write_file
    from mix_core.models.diffusion.adapter_files import FILE, read_picture_adapter

    def spread(shape: tuple[int, int]) -> np.ndarray:
        return np.linspace(-1, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)

    def write(module: str, inputs: int = 32, outputs: int = 32) -> Any:
        shapes = {"lora_A": (2, inputs), "lora_B": (outputs, 2)}
        made = [
            Outgoing(f"{module}.{kind}.weight", "F32", shape, lambda shape=shape: spread(shape))
            for kind, shape in shapes.items()
        ]
        write_file(tmp_path / FILE, made)
        return read_picture_adapter(tmp_path)

    adapters = PictureAdapters(models["transformer"])
    for module, sizes, says in (
        (
            "unet.down_blocks.0.attentions.0.proj_in",
            (32, 32),
            "it changes a unet, and SD3 has transformer, text_enc",
        ),
        (
            "transformer.transformer_blocks.9.attn.to_q",
            (32, 32),
            "transformer_blocks.9.attn.to_q, which this SD3",
        ),
        ("transformer.transformer_blocks.0.attn.to_q", (8, 32), "maps 8 numbers to 32, this SD3's 32 to 32"),
    ):
        with pytest.raises(WeightsError, match=says):
            adapters.add("other", write(module, *sizes))
    plain = values(generate(models["transformer"], PROMPT, **FEW))
    adapters.add("own", write("transformer.transformer_blocks.0.attn.to_q"))
    assert np.abs(values(generate(models["transformer"], PROMPT, **FEW)) - plain).max() > 0
    adapters.add("text", write("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 16, 16))
    assert np.abs(values(generate(models["transformer"], PROMPT, **FEW)) - plain).max() > 0
    adapters.use(None)
    assert np.array_equal(values(generate(models["transformer"], PROMPT, **FEW)), plain)
    with pytest.raises(WeightsError, match="expected names as diffusers writes them"):
        write("lora_unet_down_blocks_0")
