"""Text encoders and tokenizers of a published folder: `text_encoder`, `tokenizer`, `text_encoder_2`..."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError
from mix_core.models.clip_text.model import ClipTextModel
from mix_core.models.clip_text.original import load_original
from mix_core.models.clip_text.tokenizer import load_clip_tokenizer
from mix_core.models.clip_text.weights import load_clip_text, save_clip_text
from mix_core.models.common.prompts import PromptTokenizer
from mix_core.models.common.tokenizer import read_json
from mix_core.models.prompt_encoders import SD3, SD15, SDXL, pipeline_of, read_index
from mix_core.models.prompt_encoders.model import (
    OneEncoderPrompts,
    PromptEncoder,
    Sd3Prompts,
    Sd15Prompts,
    SdxlPrompts,
)
from mix_core.models.t5.tokenizer import load_t5_tokenizer
from mix_core.models.t5.weights import load_t5, save_t5

_SUFFIXES = ("", "_2", "_3")


def load_prompt_encoder(folder: Path, *, t5_length: int = 256, seed: int | None = None) -> PromptEncoder:
    """What the folder's model_index.json names. Raises BadInputError and WeightsError.

    A T5 that model_index.json leaves out, or whose folder is not there, is done without; an SD3 whose
    second encoder is [null, null] there has the first alone (`OneEncoderPrompts`). `seed`: draw the weights
    of encoders whose folders hold none.
    """
    folder = Path(folder)
    index = read_index(folder)
    kind = pipeline_of(index["_class_name"], folder)
    first = _clip(folder / "text_encoder", seed)
    own = load_clip_tokenizer(folder / "tokenizer", "the first text encoder (CLIP)")
    if kind == SD15:
        return Sd15Prompts(first, own)
    if kind == SD3 and "text_encoder_2" in index and _is_left_out(index, "text_encoder_2"):
        return OneEncoderPrompts(first, own)
    second = _clip(folder / "text_encoder_2", seed)
    if not second.config.projected or (kind == SD3 and not first.config.projected):
        raise BadInputError(
            f"{folder} has a text encoder without projection where {kind} takes its pooled vector; expected "
            "architectures CLIPTextModelWithProjection in its config.json"
        )
    tokenizers = [own, _second_tokenizer(folder)]
    if kind == SDXL:
        return SdxlPrompts((first, second), tokenizers, index.get("force_zeros_for_empty_prompt", True))
    third = None
    if not _is_left_out(index, "text_encoder_3") and (folder / "text_encoder_3").is_dir():
        part = folder / "text_encoder_3"
        third = load_t5(part, random_init=_is_drawn(part, seed), seed=seed or 0)
        tokenizers.append(load_t5_tokenizer(folder / "tokenizer_3", "the third text encoder (T5)"))
    return Sd3Prompts((first, second), third, tokenizers, _joint_width(folder), t5_length)


def _clip(folder: Path, seed: int | None) -> ClipTextModel:
    return load_clip_text(folder, random_init=_is_drawn(folder, seed), seed=seed or 0)


def _is_drawn(folder: Path, seed: int | None) -> bool:
    return seed is not None and not any(folder.glob("*.safetensors"))


def _is_left_out(index: dict[str, Any], part: str) -> bool:
    """Whether model_index.json does not name a part, or names it as [null, null]."""
    return (index.get(part) or [None])[0] is None


def _second_tokenizer(folder: Path) -> PromptTokenizer:
    return load_clip_tokenizer(folder / "tokenizer_2", "the second text encoder (CLIP)")


def load_original_prompts(path: Path, config: Path, *, sdxl: bool) -> PromptEncoder:
    """The encoders of one file with a whole SD 1.5 or SDXL, and the tokenizers of a folder.

    Where the folder also has text_encoder/config.json, that says the sizes. Raises BadInputError and
    WeightsError.
    """
    own = load_clip_tokenizer(config / "tokenizer", "the first text encoder (CLIP)")
    sizes = [read_json(config / f"text_encoder{suffix}" / "config.json") or None for suffix in ("", "_2")]
    first = load_original(path, config=sizes[0])
    if not sdxl:
        return Sd15Prompts(first, own)
    second = load_original(path, second=True, config=sizes[1])
    return SdxlPrompts((first, second), [own, _second_tokenizer(config)])


def _joint_width(folder: Path) -> int:
    width = read_json(folder / "transformer" / "config.json").get("joint_attention_dim")
    if not isinstance(width, int):
        raise BadInputError(f"{folder}/transformer/config.json gives no joint_attention_dim")
    return width


def save_prompt_encoder(model: PromptEncoder, folder: Path) -> None:
    """Write each encoder and tokenizer into its sub-folder, as the published pipelines read them."""
    folder = Path(folder)
    tokenizers = dict(zip(_SUFFIXES, model.tokenizers))
    for suffix, tokenizer in tokenizers.items():
        part = folder / f"text_encoder{suffix}"
        part.mkdir(parents=True, exist_ok=True)
        encoder = getattr(model, f"text_encoder{suffix}")
        (save_t5 if suffix == "_3" else save_clip_text)(encoder, part)
        tokenizer.save(folder / f"tokenizer{suffix}")
