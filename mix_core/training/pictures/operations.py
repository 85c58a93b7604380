"""Floating point operations of a run that learns pictures, for the report of its speed.

As in planning/flops.py products count, nothing else. They are those of the network and of text encoders that
learn; what frozen encoders and the autoencoder make of prompts and pictures is input.

Shapes: S tokens of a picture, M of text, h and w rows and columns of latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paddle import nn

from mix_core.inference.text_to_image.geometry import Geometry
from mix_core.models.common.adapter_files import ADAPTERS
from mix_core.models.common.layers import Linear
from mix_core.models.diffusion.attention import Attention
from mix_core.models.diffusion.layers import Conv2D
from mix_core.models.mmdit.blocks import JointAttention
from mix_core.models.mmdit.model import SD3Transformer2DModel
from mix_core.training.pictures.model import PictureLearner
from mix_core.training.throughput import Counted, Counter

_OF_ROW = ("time_emb_proj", ".linear", "_embedder.linear_1", "_embedder.linear_2", "text_projection")
"""Ends of the names of maps that a row passes once."""
_OF_TEXT = ("attn2.to_k", "attn2.to_v")
"""Of maps of the text's tokens, in the U-Net."""
_OF_JOINT_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "context_embedder")
_RESIZING = ("downsamplers.", "upsamplers.")


def network_flops(network: Any, size: tuple[int, int], tokens: int) -> int:
    """Of one row's forward pass: latents of h and w, so many tokens of text."""
    if isinstance(network, SD3Transformer2DModel):
        return _transformer_flops(network, size, tokens)
    return _unet_flops(network, size, tokens)


def _transformer_flops(network: Any, size: tuple[int, int], tokens: int) -> int:
    S, total = size[0] * size[1] // network.config.patch_size**2, 0
    for name, layer in network.named_sublayers():
        if isinstance(layer, Linear):
            of_text = name.endswith(_OF_JOINT_TEXT) or ".ff_context." in name
            total += _products(layer, 1 if name.endswith(_OF_ROW) else tokens if of_text else S)
        elif isinstance(layer, JointAttention):
            seen = S if layer.add_q_proj is None else S + tokens
            total += 4 * seen * seen * layer.to_q.outputs
    return total


def _unet_flops(unet: Any, size: tuple[int, int], tokens: int) -> int:
    (h, w), sizes = size, []
    total = _level_flops(unet.time_embedding, 1, tokens) + _products(unet.conv_in, h * w)
    total += 0 if unet.add_embedding is None else _level_flops(unet.add_embedding, 1, tokens)
    for down in unet.down_blocks:
        total += _level_flops(down, h * w, tokens)
        sizes.append((h, w))
        for one in down.downsamplers:
            h, w = (h + 1) // 2, (w + 1) // 2
            total += _products(one.conv, h * w)
    total += _level_flops(unet.mid_block, h * w, tokens)
    for up in unet.up_blocks:
        h, w = sizes.pop()
        total += _level_flops(up, h * w, tokens)
        total += sum(_products(one.conv, sizes[-1][0] * sizes[-1][1]) for one in up.upsamplers)
    return total + _products(unet.conv_out, h * w)


def _level_flops(level: nn.Layer, places: int, tokens: int) -> int:
    """Of layers over one feature map, without those that change its size."""
    total = 0
    for name, layer in level.named_sublayers():
        of_text = name.endswith(_OF_TEXT)
        if isinstance(layer, (Linear, Conv2D)) and not name.startswith(_RESIZING):
            total += _products(layer, 1 if name.endswith(_OF_ROW) else tokens if of_text else places)
        elif isinstance(layer, Attention):
            total += 4 * places * (tokens if name.endswith("attn2") else places) * layer.to_q.outputs
    return total


def encoder_flops(encoder: Any, tokens: int) -> int:
    """Of one prompt's forward pass through a CLIP encoder, whose tokens see those before them."""
    config, total = encoder.config, 0
    for name, layer in encoder.named_sublayers():
        if isinstance(layer, Linear):
            total += _products(layer, 1 if name.endswith(_OF_ROW) else tokens)
    pairs = tokens * (tokens + 1) // 2
    return total + 4 * pairs * config.hidden_size * config.num_hidden_layers


def _products(layer: Any, rows: int) -> int:
    """Of a map, or of a convolution for so many places of its result."""
    numbers = layer.inputs * layer.outputs if isinstance(layer, Linear) else layer.weight.size
    return 2 * rows * int(numbers)


def passes_of(layer: nn.Layer, *, behind: bool = False) -> int:
    """How many forward passes one of training costs: 3 where weights learn, 2 where adapters do or what comes
    before (`behind`), else 1."""
    learning = [name for name, one in layer.named_parameters() if not one.stop_gradient]
    if any(ADAPTERS not in name for name in learning):
        return 3
    return 2 if learning or behind else 1


class PictureCounter(Counter):
    """Counts samples, their tokens in the network, and operations."""

    def __init__(self, geometry: Geometry, model: PictureLearner) -> None:
        super().__init__(None)
        self.geometry, self.model = geometry, model
        self._flops: dict[tuple[int, int], int] = {}

    def count(self, passes: Iterable[Mapping[str, Any]]) -> Counted:
        samples = places = flops = 0
        for batch in passes:
            B, _, height, width = batch["pixels"].shape
            samples += B
            places += B * self.geometry.tokens(height, width)
            flops += B * self._of_size((height // self.geometry.factor, width // self.geometry.factor))
        return Counted(samples, places, flops)

    def _of_size(self, size: tuple[int, int]) -> int:
        """Of one sample, forward and backward; the model has seen the text by now."""
        if size not in self._flops:
            model = self.model
            total = passes_of(model.network, behind=model.encoders_learn) * network_flops(
                model.network, size, model.text_tokens
            )
            for name, encoder in model.text_encoders().items():
                if name != "text_encoder_3" and passes_of(encoder) > 1:
                    length = model.prompts.tokenizers[list(model.text_encoders()).index(name)].length
                    total += passes_of(encoder) * encoder_flops(encoder, length)
            self._flops[size] = total
        return self._flops[size]
