"""CLIP's tokenizer: lower case, byte pairs with a mark at the end of each word.

Published folders hold vocab.json and merges.txt, or tokenizer.json with both inside. Sennrich et al., "Neural
Machine Translation of Rare Words with Subword Units", 2016 (arXiv 1508.07909).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from mix_core.errors import BadInputError
from mix_core.models.common.prompts import PromptTokenizer, add_special, read_settings, role_text
from mix_core.models.common.tokenizer import read_json

LENGTH = 77
"""Tokens of a row, where tokenizer_config.json has no model_max_length."""
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_DEFAULTS = {"bos_token": _BEGIN, "eos_token": _END, "unk_token": _END, "pad_token": _END}
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_clip_tokenizer(folder: Path, name: str = "CLIP") -> PromptTokenizer:
    """The tokenizer of a published `tokenizer` folder; `name` stands in warnings.

    Rows are filled up with the folder's pad token: the end token for ViT-L, "!" (id 0) for bigG. A "!" in a
    prompt then is that token, as it is for transformers. Raises BadInputError.
    """
    folder = Path(folder)
    config = read_settings(folder, _DEFAULTS)
    begin, end = role_text(config, "bos_token"), role_text(config, "eos_token")
    backend = Backend(_byte_pairs(folder, role_text(config, "unk_token")))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    add_special(backend, config)
    first, last = backend.token_to_id(begin), backend.token_to_id(end)
    backend.post_processor = processors.RobertaProcessing(
        sep=(end, last), cls=(begin, first), add_prefix_space=False, trim_offsets=False
    )
    length = min(config.get("model_max_length") or LENGTH, LENGTH)
    pad_id = backend.token_to_id(role_text(config, "pad_token"))
    return PromptTokenizer(backend, folder, pad_id=pad_id, length=int(length), name=name)


def _byte_pairs(folder: Path, unknown: str) -> models.BPE:
    settings: dict[str, Any] = {
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "unk_token": unknown,
    }
    try:
        if (folder / "tokenizer.json").is_file():
            model = read_json(folder / "tokenizer.json")["model"]
            merges = [
                tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
                for merge in model["merges"]
            ]
            return models.BPE(model["vocab"], merges, **settings)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"), **settings)
    except BadInputError:
        raise
    except Exception as error:  # the library raises no narrower type
        raise BadInputError(f"{folder} holds no readable tokenizer of CLIP: {error}") from error
    raise BadInputError(
        f"{folder} has no tokenizer.json and no vocab.json with merges.txt; a tokenizer folder needs them"
    )
