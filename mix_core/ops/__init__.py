"""The operators a device may replace: docs/operators.md is their contract, each file holds a reference."""

from __future__ import annotations

from mix_core.ops.activations import geglu, gelu, swiglu
from mix_core.ops.attend_decode import attention_decode
from mix_core.ops.attend_dense import attention
from mix_core.ops.attend_packed import attention_packed
from mix_core.ops.convolution import conv2d
from mix_core.ops.decode_layers import decode_layers, decode_layers_int8
from mix_core.ops.head_loss import linear_cross_entropy
from mix_core.ops.matmul import adapted_linear, head_logits, linear
from mix_core.ops.matmul_int8 import linear_int8
from mix_core.ops.norms import add_rms_norm, group_norm, layer_norm, rms_norm
from mix_core.ops.optimizer_step import adamw
from mix_core.ops.projections import adapted_mlp, gated_mlp, qkv
from mix_core.ops.rope import rotary, rotary_tables_1d, rotary_tables_2d, rotary_tables_mrope
from mix_core.ops.sample import sampling

__all__ = [
    "adamw",
    "adapted_linear",
    "adapted_mlp",
    "add_rms_norm",
    "attention",
    "attention_decode",
    "attention_packed",
    "conv2d",
    "decode_layers",
    "decode_layers_int8",
    "gated_mlp",
    "geglu",
    "gelu",
    "group_norm",
    "head_logits",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linear_int8",
    "qkv",
    "rms_norm",
    "rotary",
    "rotary_tables_1d",
    "rotary_tables_2d",
    "rotary_tables_mrope",
    "sampling",
    "swiglu",
]
