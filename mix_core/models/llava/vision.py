"""CLIP's vision transformer, as far as LLaVA uses it, and the projector to the decoder's width.

Shapes: I tiles, S tokens of a tile (the class token and P * P patches), D tower width.
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from mix_core import ops
from mix_core.models.common.clip import ClipLayer
from mix_core.models.common.layers import Embedding, LayerNorm, Linear
from mix_core.models.common.recompute import run_block
from mix_core.models.llava.config import LlavaConfig, VisionConfig
from mix_core.ops.dtypes import cast


class Embeddings(nn.Layer):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.class_embedding = self.create_parameter([D], default_initializer=Constant(0.0))
        # patch_embedding.weight, published as (D, channels, patch, patch): its stride is its kernel
        self.patch_embedding = Linear(config.patch_width, D, bias=False)
        self.position_embedding = Embedding(config.grid**2 + 1, D)

    def forward(self, patches: Tensor) -> Tensor:
        """Flattened patches (I, P * P, channels * patch * patch) -> (I, S, D)."""
        dtype = self.patch_embedding.weight.dtype
        x_IPD = cast(self.patch_embedding(cast(patches, dtype)), dtype)
        class_I1D = paddle.zeros([x_IPD.shape[0], 1, x_IPD.shape[2]], dtype) + self.class_embedding
        return paddle.concat([class_I1D, x_IPD], axis=1) + self.position_embedding.weight


def _layer(config: VisionConfig) -> ClipLayer:
    return ClipLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        act=config.hidden_act,
        eps=config.layer_norm_eps,
        causal=False,
    )


class Encoder(nn.Layer):
    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.LayerList([_layer(config) for _ in range(layers)])


class VisionTransformer(nn.Layer):
    """`vision_tower.vision_model`, up to the layer whose output LLaVA takes."""

    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)  # spelt as published
        self.encoder = Encoder(config, layers)
        rest = nn.LayerList([_layer(config) for _ in range(config.num_hidden_layers - layers)])
        self.unused = (rest, LayerNorm(config.hidden_size, config.layer_norm_eps))
        """Layers after that one, and post_layernorm. Nothing depends on them, so they never learn and are no
        parameters of the model (a tuple is no sublayer); published folders hold them."""
        self.recompute = False

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Flattened patches (I, P * P, patch width) -> (I, S, D).

        Of a part of the way: `x` is what layer ``start - 1`` gave, and what layer ``stop - 1`` gives comes
        back.
        """
        x_ISD, layers = self.pre_layrnorm(self.embeddings(x)) if start == 0 else x, self.encoder.layers
        for i in range(len(layers))[start:stop]:
            x_ISD = run_block(self, i, layers[i], x_ISD)
        return x_ISD


class VisionTower(nn.Layer):
    def __init__(self, config: VisionConfig, layers: int) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config, layers)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        return self.vision_model(x, start, stop)


class Projector(nn.Layer):
    """mlp2x_gelu: two linear maps with a gelu between; the authors' files call them 0 and 2."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        width = config.text.hidden_size
        self.linear_1 = Linear(config.vision.hidden_size, width, config.projector_bias)
        self.linear_2 = Linear(width, width, config.projector_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(ops.gelu(self.linear_1(x)))
