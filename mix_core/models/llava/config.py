"""Configuration of LLaVA: the folders of llava-hf (model_type llava and llava_next).

llava-hf's published files leave out whatever has its default in transformers, so the defaults of the named
parts (`llama`, `mistral`, `clip_vision_model`) belong to the format: they stand here and nowhere else, and
what is written names every value. `original.py` reads the authors' own folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.common.config_values import check_multiple, check_sizes, take

Size = tuple[int, int]
"""(height, width)."""

_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 11008, "max_position_embeddings": 2048, "sliding_window": None},
    "mistral": {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
}
_TEXT_SHARED: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "mlp_bias": False,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}
PINPOINTS: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Where a llava_next file names none."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The CLIP tower, `vision_config` in the file. Values of ViT-L/14-336 in brackets."""

    hidden_size: int
    """Width of a patch's vector (1024)."""
    intermediate_size: int
    """Width of the feed-forward (4096)."""
    num_hidden_layers: int
    """(24); those after the layer that features are taken from are kept for the file only."""
    num_attention_heads: int
    """(16)"""
    num_channels: int
    """Colour channels (3)."""
    image_size: int
    """Side of a tile, pixels (336)."""
    patch_size: int
    """Side of a patch, pixels (14)."""
    layer_norm_eps: float
    """(1e-5)"""
    hidden_act: str
    """Of the feed-forward ("quick_gelu")."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        return self.num_channels * self.patch_size**2

    @property
    def grid(self) -> int:
        """Patches along a side of a tile."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder, `text_config` in the file. Values of Vicuna-7B and Mistral-7B in brackets."""

    model_type: str
    """"llama" or "mistral"."""
    vocab_size: int
    """Rows of the embedding (32064: 32000, the picture's and the padding's token, rounded up)."""
    hidden_size: int
    """(4096)"""
    intermediate_size: int
    """Width of the gated feed-forward (11008, 14336)."""
    num_hidden_layers: int
    """(32)"""
    num_attention_heads: int
    """(32)"""
    num_key_value_heads: int
    """(32, 8)"""
    head_dim: int
    """(128)"""
    rms_norm_eps: float
    """(1e-5)"""
    rope_theta: float
    """Base of the rotary frequencies (1e4, 1e6)."""
    max_position_embeddings: int
    """Greatest length the model was made for, tokens (4096, 32768); it limits nothing here."""
    sliding_window: int | None
    """Tokens that a token sees (none). With one, longer rows are refused: windows are not built."""
    attention_dropout: float
    initializer_range: float
    """Standard deviation of random first weights (0.02)."""
    hidden_act: str
    """"silu" is the only one built."""
    bos_token_id: int | None
    eos_token_id: int | None


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    """Stands once for each row that a picture gives the decoder; `image_token_index` in the file."""
    vision_feature_layer: int
    """Whose output is taken: 0 is what enters the first layer, -2 the last layer's input (-2)."""
    keep_class_token: bool
    """Whether the class token's row is handed on too (`vision_feature_select_strategy` "full")."""
    projector_bias: bool
    tie_word_embeddings: bool
    pinpoints: tuple[Size, ...] | None
    """Sizes that a picture is brought to, in pixels (LLaVA-1.6); None: one tile a picture (LLaVA-1.5)."""
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def anyres(self) -> bool:
        """LLaVA-1.6: pictures in tiles, and an `image_newline` weight."""
        return self.pinpoints is not None

    @property
    def tower_layers(self) -> int:
        """Layers that run."""
        index = self.vision_feature_layer
        return index if index >= 0 else self.vision.num_hidden_layers + 1 + index

    @property
    def tile_rows(self) -> int:
        """Rows that one tile gives the decoder."""
        return self.vision.grid**2 + self.keep_class_token


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def text_config(source: dict[str, Any], where: str = "text_config.") -> TextConfig:
    """The decoder of a parsed file. Raises BadInputError."""
    kind = source.get("model_type", "llama")
    if kind not in _TEXT_DEFAULTS:
        raise BadInputError(
            f"config.json has {where}model_type = {kind!r}; built are {', '.join(_TEXT_DEFAULTS)}"
        )
    given = {**_TEXT_SHARED, **_TEXT_DEFAULTS[kind], **source}
    for key in ("attention_bias", "mlp_bias"):
        if given[key]:
            raise BadInputError(f"config.json has {where}{key} = true; only maps without biases are built")
    heads = take(given, "num_attention_heads", where, int)
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise BadInputError(f"config.json has rope type {rope_type!r} in {where}, expected 'default'")
    theta = rope.get("rope_theta") or given.get("rope_theta") or 10000.0
    return TextConfig(
        model_type=kind,
        **{key: take(given, key, where, int) for key in (*_SIZES, "vocab_size", "max_position_embeddings")},
        num_key_value_heads=given.get("num_key_value_heads") or heads,
        head_dim=given.get("head_dim") or take(given, "hidden_size", where, int) // max(1, heads),
        rope_theta=float(theta),
        sliding_window=given["sliding_window"],
        **{key: take(given, key, where, float) for key in ("rms_norm_eps", "attention_dropout")},
        initializer_range=take(given, "initializer_range", where, float),
        hidden_act=take(given, "hidden_act", where, str),
        bos_token_id=given["bos_token_id"],
        eos_token_id=given["eos_token_id"],
    )


def vision_config(source: dict[str, Any], where: str = "vision_config.") -> VisionConfig:
    """The tower of a parsed file. Raises BadInputError."""
    kind = source.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise BadInputError(f"config.json has {where}model_type = {kind!r}; built is clip_vision_model")
    given = {**_VISION_DEFAULTS, **source}
    sizes = (*_SIZES, "num_channels", "image_size", "patch_size")
    return VisionConfig(
        **{key: take(given, key, where, int) for key in sizes},
        layer_norm_eps=take(given, "layer_norm_eps", where, float),
        hidden_act=take(given, "hidden_act", where, str),
    )


def config_from_dict(source: dict[str, Any]) -> LlavaConfig:
    """Build the configuration from a parsed config.json, llava-hf's or the authors'. Raises BadInputError."""
    if "mm_vision_tower" in source:
        from mix_core.models.llava.original import config_from_original

        return config_from_original(source)
    text_source, vision_source = (take(source, key, "", dict) for key in ("text_config", "vision_config"))
    strategy = source.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise BadInputError(
            f"config.json has vision_feature_select_strategy = {strategy!r}, expected 'default' or 'full'"
        )
    if source.get("projector_hidden_act", "gelu") != "gelu":
        raise BadInputError(
            f"config.json has projector_hidden_act = {source['projector_hidden_act']!r}, expected 'gelu'"
        )
    pinpoints = None
    if source["model_type"] == "llava_next":
        pinpoints = pinpoints_of(source.get("image_grid_pinpoints") or PINPOINTS)
    image_token = next((source[k] for k in ("image_token_index", "image_token_id") if k in source), 32000)
    return LlavaConfig(
        text=text_config(text_source),
        vision=vision_config(vision_source),
        image_token_id=take({"image_token_index": image_token}, "image_token_index", "", int),
        vision_feature_layer=take({"vision_feature_layer": -2} | source, "vision_feature_layer", "", int),
        keep_class_token=strategy == "full",
        projector_bias=source.get("multimodal_projector_bias", True),
        tie_word_embeddings=bool(
            source.get("tie_word_embeddings") or text_source.get("tie_word_embeddings", False)
        ),
        pinpoints=pinpoints,
        pad_token_id=source.get("pad_token_id"),
    )


def pinpoints_of(value: Any) -> tuple[Size, ...]:
    """A list of (height, width). Raises BadInputError."""
    try:
        found = tuple((int(height), int(width)) for height, width in value)
    except (TypeError, ValueError):
        found = ()
    if not found:
        raise BadInputError(
            f"image_grid_pinpoints is {value!r}, expected a list of [height, width] in pixels"
        )
    return found


def config_to_dict(config: LlavaConfig, dtype: str) -> dict[str, Any]:
    """config.json as llava-hf has it, with every value that a default could change."""
    text, vision = config.text, config.vision
    name = "LlavaNext" if config.anyres else "Llava"
    text_keys = (*_SIZES, "vocab_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta")
    text_keys += ("max_position_embeddings", "attention_dropout", "initializer_range", "hidden_act")
    text_keys += ("bos_token_id", "eos_token_id", "model_type")
    of_text = {key: getattr(text, key) for key in text_keys}
    if text.model_type == "mistral":
        of_text["sliding_window"] = text.sliding_window
    written = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": "llava_next" if config.anyres else "llava",
        "image_token_index": config.image_token_id,
        "image_seq_length": config.tile_rows,
        "multimodal_projector_bias": config.projector_bias,
        "pad_token_id": config.pad_token_id,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": "full" if config.keep_class_token else "default",
        "text_config": {**of_text, "tie_word_embeddings": config.tie_word_embeddings, "torch_dtype": dtype},
        "vision_config": {
            **{key: getattr(vision, key) for key in _VISION_DEFAULTS},
            "model_type": "clip_vision_model",
        },
    }
    if config.pinpoints is not None:
        written["image_grid_pinpoints"] = [list(size) for size in config.pinpoints]
        written["use_image_newline_parameter"] = True
    return {key: value for key, value in written.items() if value is not None}


def _check(config: LlavaConfig) -> None:
    """Refuse sizes that do not fit each other, with the values."""
    text, vision = config.text, config.vision
    check_sizes(text, (*_SIZES, "vocab_size", "num_key_value_heads", "head_dim"), "text_config.")
    check_sizes(vision, (*_SIZES, "num_channels", "image_size", "patch_size"), "vision_config.")
    for what, size, divisor in (
        ("num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
        ("vision_config.hidden_size", vision.hidden_size, vision.num_attention_heads),
        ("vision_config.image_size", vision.image_size, vision.patch_size),
        *((f"image_grid_pinpoints side {side}", side, vision.image_size) for side in _sides(config)),
    ):
        check_multiple(what, size, divisor)
    if text.hidden_act != "silu" or vision.hidden_act not in ("quick_gelu", "gelu"):
        raise BadInputError(
            f"config.json has hidden_act {text.hidden_act!r} in text_config and {vision.hidden_act!r} in "
            "vision_config; built are 'silu', and 'quick_gelu' or 'gelu'"
        )
    if not 0 <= config.tower_layers <= vision.num_hidden_layers:
        raise BadInputError(
            f"config.json has vision_feature_layer = {config.vision_feature_layer}, and the tower has "
            f"{vision.num_hidden_layers} layers"
        )
    if config.anyres and config.keep_class_token:
        raise BadInputError(
            "config.json has vision_feature_select_strategy = 'full' with tiles; a class token has no place "
            "in a grid, expected 'default'"
        )


def _sides(config: LlavaConfig) -> list[int]:
    return sorted({side for size in config.pinpoints or () for side in size})
