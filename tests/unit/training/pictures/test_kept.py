"""What a run keeps of pictures and prompts: the same as without, drawn from anew in each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mix_core.errors import RunFailedError
from mix_core.inference.text_to_image import load_pictures
from mix_core.training.pictures.latents import Encoder
from mix_core.training.pictures.model import PictureLearner
from tests.builders.pictures import write_picture_model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_pictures(write_picture_model(tmp_path_factory.mktemp("kept") / "model", "unet"))


def batch(*keys: tuple[int, bool]) -> dict[str, Any]:
    """Cuts of 16 x 16 of pictures by number and mirror."""
    cuts = [np.random.default_rng(number).uniform(-1, 1, (3, 16, 16)) for number, _ in keys]
    pixels = [cut[..., ::-1] if mirrored else cut for cut, (_, mirrored) in zip(cuts, keys)]
    return {
        "pixels": np.stack(pixels).astype(np.float32),
        "sample_ids": np.arange(len(keys)),
        "latent_keys": [(number, 0.5, 0.5, mirrored, (16, 16)) for number, mirrored in keys],
    }


def test_latents_are_sampled_in_each_step_of_what_the_autoencoder_said_once(pictures: Any) -> None:
    encoder, given = Encoder(pictures.vae), batch((0, False), (1, False))
    first = encoder(given, 7, 1).numpy()
    plain = Encoder(pictures.vae)({key: given[key] for key in ("pixels", "sample_ids")}, 7, 1).numpy()
    np.testing.assert_array_equal(first, plain)
    bias = pictures.vae.encoder.conv_out.bias
    before = bias.numpy()
    try:
        bias.set_value(before + 1.0)  # whoever asks the autoencoder again gets other numbers
        np.testing.assert_array_equal(encoder(given, 7, 1).numpy(), first)
        assert np.abs(encoder(given, 7, 2).numpy() - first).max() > 0.01, "drawn anew"
        mixed = encoder(batch((0, False), (1, True)), 7, 1).numpy()
        np.testing.assert_array_equal(mixed[0], first[0])
        assert np.abs(mixed[1] - first[1]).max() > 0.1, "a mirrored picture is another one"
    finally:
        bias.set_value(before)


def test_latents_that_are_not_finite_are_named_with_the_way_out(pictures: Any) -> None:
    bias = pictures.vae.encoder.conv_out.bias
    before = bias.numpy()
    try:
        bias.set_value(np.full_like(before, np.nan))
        with pytest.raises(RunFailedError, match=r"latents are not finite.*madebyollin/sdxl-vae-fp16-fix"):
            Encoder(pictures.vae)(batch((0, False)), 0, 1)
    finally:
        bias.set_value(before)


def test_kept_prompts_are_those_that_are_told_each_time(pictures: Any) -> None:
    learner = PictureLearner(pictures, None)  # type: ignore[arg-type]
    learner.settle()
    learner.told(["a seven"])
    kept = learner.told(["", "a seven", ""])
    told = pictures.prompts(pictures.prompts.tokens(["", "a seven", ""]))
    np.testing.assert_allclose(kept.embeds.numpy(), told.embeds.numpy(), rtol=1e-5, atol=1e-6)
