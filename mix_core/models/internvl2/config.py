"""Configuration of InternVL2 (`internvl_chat`): the tower, one of three decoders, and how both are joined.

Nothing that changes the network has a silent default but where the published files leave a key out because
their code has one value only; those are named where they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import check_multiple, check_sizes, take

INTERNLM2 = "InternLM2ForCausalLM"
QKV_BIAS = {INTERNLM2: False, "Qwen2ForCausalLM": True, "LlamaForCausalLM": False}
"""Whether the decoders that are built have biases in their maps to q, k and v."""
MODEL_TYPES = {INTERNLM2: "internlm2", "Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The tower InternViT, `vision_config` in the file. Published values (300M, 6B) in brackets."""

    hidden_size: int
    """Width of a patch's vector (1024, 3200)."""
    intermediate_size: int
    """Width of the feed-forward (4096, 12800)."""
    num_hidden_layers: int
    """(24, 45)"""
    num_attention_heads: int
    """(16, 25)"""
    image_size: int
    """Side of the pictures for which `position_embedding` was learned, pixels (448)."""
    patch_size: int
    """Side of a patch, pixels (14)."""
    layer_norm_eps: float
    """Of all norms of the tower (1e-6)."""
    norm_type: str
    """"layer_norm" (300M) or "rms_norm" (6B)."""
    qkv_bias: bool
    """Whether the fused map to q, k and v has a bias (true, false)."""
    qk_normalization: bool
    """Whether q and k pass an RMS norm over all heads together (false, true)."""
    drop_path_rate: float
    """Stochastic depth of the last layer in training; it grows from 0 in the first (0 or 0.1)."""
    initializer_factor: float
    """First value of the layer scales `ls1` and `ls2` (1 or 0.1)."""
    num_channels: int
    """Colour channels (3)."""
    hidden_act: str
    """Of the feed-forward; "gelu", the exact one."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        return self.num_channels * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder, `llm_config` in the file. Published values (InternVL2-1B, 2B, 8B, 26B) in brackets."""

    architecture: str
    """First of `architectures`, which decides on names and biases: a key of QKV_BIAS."""
    vocab_size: int
    """Rows of the embedding (151655, 92553, 92553, 92553)."""
    hidden_size: int
    """(896, 2048, 4096, 6144)"""
    intermediate_size: int
    """(4864, 8192, 14336, 16384)"""
    num_hidden_layers: int
    """(24, 24, 32, 48)"""
    num_attention_heads: int
    """(14, 16, 32, 48)"""
    num_key_value_heads: int
    """(2, 8, 8, 8)"""
    max_position_embeddings: int
    """Trained length, tokens (32768): dynamic NTK sets in beyond it."""
    rms_norm_eps: float
    """(1e-6, 1e-5, 1e-5, 1e-5)"""
    rope_theta: float
    """Base of the rotary frequencies (1e6)."""
    ntk_factor: float | None
    """`rope_scaling.factor` of the type "dynamic" (2); None where the base never changes."""
    tie_word_embeddings: bool
    """Whether the head is the embedding's matrix (false)."""
    attention_dropout: float
    """Share of attention weights dropped in training (0); InternLM2 has no such key."""
    initializer_range: float
    """Standard deviation of random first weights (0.02)."""
    hidden_act: str
    """Gate of the feed-forward; "silu" is the only one built."""
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    """Kept for the file; the processor says where answers end."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def groups(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.num_attention_heads // self.num_key_value_heads


@dataclass(frozen=True, kw_only=True)
class InternVL2Config:
    text: TextConfig
    vision: VisionConfig
    template: str
    """Name of the conversation template: a key of `chat_templates.TEMPLATES`."""
    downsample_ratio: float
    """Pixel shuffle: tokens on a side over patches on a side (0.5)."""
    ps_version: str
    """Pixel shuffle "v2", or "v1", which hands the tokens out column by column."""
    select_layer: int
    """Which hidden state of the tower is used: -1 the last, -2 the one before..."""
    force_image_size: int | None
    """Side of a tile, pixels (448); None: the tower's image_size."""
    dynamic_image_size: bool
    """Whether a picture is cut into tiles at all."""
    use_thumbnail: bool
    """Whether the whole picture follows its tiles, where there are several."""
    pad2square: bool
    """Whether a picture that is not cut into tiles gets bars, so that it keeps its ratio of sides."""
    min_dynamic_patch: int
    """Fewest tiles of a picture (1)."""
    max_dynamic_patch: int
    """Most tiles of a picture, without the thumbnail (12)."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def image_size(self) -> int:
        """Side of a tile, pixels."""
        return self.force_image_size or self.vision.image_size

    @property
    def shuffle(self) -> int:
        """Patches on a side of what becomes one token (2)."""
        return round(1 / self.downsample_ratio)

    @property
    def grid(self) -> int:
        """Patches on a side of a tile (32)."""
        return self.image_size // self.vision.patch_size

    @property
    def num_image_token(self) -> int:
        """Tokens of a tile (256)."""
        return (self.grid // self.shuffle) ** 2


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TEXT_SIZES = (*_SIZES, "vocab_size", "num_key_value_heads", "max_position_embeddings")
_VISION_SIZES = (*_SIZES, "image_size", "patch_size", "num_channels")


def _text(source: dict[str, Any], tied: bool | None) -> TextConfig:
    where = "llm_config."
    if source.get("tie_word_embeddings") is None:
        source = {**source, "tie_word_embeddings": tied}
    names = take(source, "architectures", where, list)
    architecture = names[0] if names else None
    if architecture not in QKV_BIAS:
        raise BadInputError(
            f"config.json has {where}architectures = {names!r}; built are {', '.join(QKV_BIAS)} "
            "(not Phi3, the decoder of InternVL2-4B: its rotary factors depend on the length in another way)"
        )
    if source.get("bias"):
        raise BadInputError(f"config.json has {where}bias = true; the published decoders have false")
    if source.get("use_sliding_window"):
        raise BadInputError(f"config.json has {where}use_sliding_window = true; only full attention is built")
    return TextConfig(
        architecture=architecture,
        **{key: take(source, key, where, int) for key in _TEXT_SIZES},
        rms_norm_eps=take(source, "rms_norm_eps", where, float),
        rope_theta=take(source, "rope_theta", where, float),
        ntk_factor=_ntk_factor(source.get("rope_scaling"), where),
        tie_word_embeddings=take(source, "tie_word_embeddings", where, bool),
        attention_dropout=float(source.get("attention_dropout") or 0.0),
        initializer_range=take(source, "initializer_range", where, float),
        hidden_act=take(source, "hidden_act", where, str),
        **{key: source.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )


def _ntk_factor(scaling: dict[str, Any] | None, where: str) -> float | None:
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    if kind == "default":
        return None
    if kind != "dynamic":
        raise BadInputError(
            f"config.json has {where}rope_scaling of type {kind!r}, expected 'dynamic' or none"
        )
    return take(scaling or {}, "factor", f"{where}rope_scaling.", float)


def _vision(source: dict[str, Any]) -> VisionConfig:
    where = "vision_config."
    for key in ("attention_dropout", "dropout"):
        if source.get(key):
            raise BadInputError(f"config.json has {where}{key} = {source[key]}; published towers have 0")
    return VisionConfig(
        **{key: take(source, key, where, int) for key in _VISION_SIZES},
        layer_norm_eps=take(source, "layer_norm_eps", where, float),
        # files from before there were two kinds have no norm_type; all of these have RMS norms
        norm_type=source.get("norm_type") or "rms_norm",
        qkv_bias=take(source, "qkv_bias", where, bool),
        qk_normalization=take(source, "qk_normalization", where, bool),
        drop_path_rate=take(source, "drop_path_rate", where, float),
        initializer_factor=take(source, "initializer_factor", where, float),
        hidden_act=take(source, "hidden_act", where, str),
    )


def config_from_dict(source: dict[str, Any]) -> InternVL2Config:
    """Build the configuration from a parsed config.json. Raises BadInputError."""
    return InternVL2Config(
        text=_text(take(source, "llm_config", "", dict), source.get("tie_word_embeddings")),
        vision=_vision(take(source, "vision_config", "", dict)),
        template=take(source, "template", "", str),
        downsample_ratio=take(source, "downsample_ratio", "", float),
        ps_version=take(source, "ps_version", "", str),
        select_layer=take(source, "select_layer", "", int),
        force_image_size=source.get("force_image_size"),
        dynamic_image_size=take(source, "dynamic_image_size", "", bool),
        use_thumbnail=take(source, "use_thumbnail", "", bool),
        # not in every published file; those that have it have false
        pad2square=take({"pad2square": False} | source, "pad2square", "", bool),
        min_dynamic_patch=take(source, "min_dynamic_patch", "", int),
        max_dynamic_patch=take(source, "max_dynamic_patch", "", int),
    )


def config_to_dict(config: InternVL2Config, dtype: str) -> dict[str, Any]:
    """Write the published form."""
    text, vision = config.text, config.vision
    scaling = None if text.ntk_factor is None else {"type": "dynamic", "factor": text.ntk_factor}
    optional = ("bos_token_id", "eos_token_id", "pad_token_id")
    kept = ("rms_norm_eps", "rope_theta", "tie_word_embeddings", "initializer_range", "hidden_act")
    of_tower = ("layer_norm_eps", "norm_type", "qkv_bias", "qk_normalization", "drop_path_rate")
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": config.template,
        "downsample_ratio": config.downsample_ratio,
        "ps_version": config.ps_version,
        "select_layer": config.select_layer,
        "force_image_size": config.force_image_size,
        "dynamic_image_size": config.dynamic_image_size,
        "use_thumbnail": config.use_thumbnail,
        "min_dynamic_patch": config.min_dynamic_patch,
        "max_dynamic_patch": config.max_dynamic_patch,
        "pad2square": config.pad2square,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "torch_dtype": dtype,
        "llm_config": {
            "architectures": [text.architecture],
            "model_type": MODEL_TYPES[text.architecture],
            **{key: getattr(text, key) for key in (*_TEXT_SIZES, *kept)},
            **{key: getattr(text, key) for key in optional if getattr(text, key) is not None},
            **(
                {"bias": False}
                if text.architecture == INTERNLM2
                else {"attention_dropout": text.attention_dropout}
            ),
            "rope_scaling": scaling,
            "torch_dtype": dtype,
            "use_cache": True,
        },
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            **{key: getattr(vision, key) for key in (*_VISION_SIZES, *of_tower)},
            "initializer_factor": vision.initializer_factor,
            "hidden_act": vision.hidden_act,
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "torch_dtype": dtype,
        },
    }


def _check(config: InternVL2Config) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    text, vision = config.text, config.vision
    check_sizes(text, _TEXT_SIZES, "llm_config.")
    check_sizes(vision, _VISION_SIZES, "vision_config.")
    for what, size, parts in (
        ("llm_config.hidden_size", text.hidden_size, text.num_attention_heads),
        ("llm_config.num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
        ("vision_config.hidden_size", vision.hidden_size, vision.num_attention_heads),
        ("vision_config.image_size", vision.image_size, vision.patch_size),
        ("the side of a tile", config.image_size, vision.patch_size),
    ):
        check_multiple(what, size, parts)
    if not 0 < config.downsample_ratio <= 1 or config.grid % config.shuffle:
        raise BadInputError(
            f"config.json has downsample_ratio = {config.downsample_ratio}; it must divide the "
            f"{config.grid} patches on a side of a tile into whole tokens"
        )
    if not -vision.num_hidden_layers - 1 <= config.select_layer <= vision.num_hidden_layers:
        raise BadInputError(
            f"config.json has select_layer = {config.select_layer}, but the tower has "
            f"{vision.num_hidden_layers} layers"
        )
    if not 1 <= config.min_dynamic_patch <= config.max_dynamic_patch:
        raise BadInputError(
            f"config.json has min_dynamic_patch = {config.min_dynamic_patch} and max_dynamic_patch = "
            f"{config.max_dynamic_patch}, expected 1 <= min <= max"
        )
    for what, value, known in (
        ("ps_version", config.ps_version, ("v1", "v2")),
        ("vision_config.norm_type", vision.norm_type, ("layer_norm", "rms_norm")),
        ("vision_config.hidden_act", vision.hidden_act, ("gelu",)),
        ("llm_config.hidden_act", text.hidden_act, ("silu",)),
    ):
        if value not in known:
            raise BadInputError(f"config.json has {what} = {value!r}, expected {' or '.join(known)}")
