"""What diffusion networks refuse, and what their random first values do."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.errors import DataError
from mix_core.models.diffusion.config_file import write_json
from mix_core.models.diffusion.network import load_network

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 29,
}
MMDIT: dict[str, Any] = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 5,
    "pos_embed_max_size": 4,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name, source in (("unet", UNET), ("mmdit", MMDIT), ("vae", VAE)):
        folder = tmp_path_factory.mktemp(name)
        write_json(folder, source)
        made[name] = load_network(folder, seed=0)
    return made


def unet_inputs() -> dict[str, Any]:
    zeros = paddle.zeros
    return {
        "sample": zeros([2, 4, 4, 4]),
        "timestep": 3,
        "encoder_hidden_states": zeros([2, 3, 12]),
        "text_embeds": zeros([2, 5]),
        "time_ids": zeros([2, 6]),
    }


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("sample", [2, 9, 4, 4], r"latents of shape \[2, 9, 4, 4\]; it takes 4 channels"),
        ("encoder_hidden_states", [2, 3, 16], r"expected \(2, tokens, 12\): do network and text encoder"),
        ("encoder_hidden_states", [1, 3, 12], r"expected \(2, tokens, 12\)"),
        ("text_embeds", [2, 6], r"text_embeds of shape \[2, 6\]; expected \(2, 5\)"),
        ("time_ids", None, r"time_ids of shape None; expected \(2, 6\)"),
    ],
)
def test_the_unet_refuses(models, name: str, shape: list[int] | None, message: str) -> None:
    given = unet_inputs() | {name: None if shape is None else paddle.zeros(shape)}
    with pytest.raises(DataError, match=message):
        models["unet"](**given)


@pytest.mark.parametrize(
    ("shape", "text", "pooled", "message"),
    [
        ([1, 4, 4, 4], 12, 5, "expected 16 channels and sides that are multiples of 2"),
        ([1, 16, 4, 5], 12, 5, "sides that are multiples of 2"),
        ([1, 16, 4, 4], 16, 5, r"expected \(1, tokens, 12\)"),
        ([1, 16, 4, 4], 12, 6, r"pooled text of shape \[1, 6\]; expected \(1, 5\)"),
        ([1, 16, 4, 12], 12, 5, "make 2 x 6 tokens; the model has positions for 4 x 4"),
    ],
)
def test_the_transformer_refuses(models, shape: list[int], text: int, pooled: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        models["mmdit"](paddle.zeros(shape), paddle.zeros([1, 3, text]), paddle.zeros([1, pooled]), 1.0)


def test_the_autoencoder_refuses(models) -> None:
    vae = models["vae"]
    with pytest.raises(DataError, match="sides that are multiples of 2"):
        vae.encode(paddle.zeros([1, 3, 4, 5]))
    with pytest.raises(DataError, match="its latents have 4 channels: do network and autoencoder belong"):
        vae.decode(paddle.zeros([1, 16, 4, 4]))
    with pytest.raises(ValueError, match="an overlap from 0 to less than 1"):
        vae.use_tiles(8, overlap=1.0)


def test_first_values_are_drawn_by_name_and_blocks_begin_as_the_identity(models) -> None:
    for name in ("unet", "mmdit"):
        model = models[name]
        zero = {n for n, p in model.named_parameters() if p.ndim > 1 and not p.numpy().any()}
        assert zero == {n for n, p in model.named_parameters() if n.endswith(model.zero_at_first)} != set()
    found = models["unet"](**unet_inputs())
    np.testing.assert_array_equal(found.numpy(), 0.0)
    weight = models["vae"].decoder.conv_in.weight.numpy()
    assert weight.std() == pytest.approx((3 * 4 * 9) ** -0.5, rel=0.15)


def test_a_convolution_in_strips_is_the_convolution(models, monkeypatch: pytest.MonkeyPatch) -> None:
    from mix_core.ops import convolution

    vae = models["vae"]
    z = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 4, 7, 6), dtype=np.float32))
    with paddle.no_grad():
        whole = vae.decode(z).numpy()
        monkeypatch.setattr(convolution, "MAX_COLUMNS", 8 * 9 * 12 * 3)
        np.testing.assert_allclose(vae.decode(z).numpy(), whole, rtol=1e-5, atol=1e-5)
