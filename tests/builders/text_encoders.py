"""Tokenizer folders as they are published with text-to-image models, with a small vocabulary."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

PIECES = 80
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
TEXT = (
    "a photo of an astronaut riding a horse on mars, highly detailed, golden hour, 35 mm",
    "an oil painting of the old harbour at night in the style of the dutch masters",
    "a handwritten seven on white paper! a cat's whiskers; it's don't we'll they've",
    "the quick brown fox jumps over the lazy dog 0123456789 again and again and again",
)
PROMPTS = (
    "",
    "a photo of an Astronaut riding a HORSE",
    "wow! a cat's 35 mm photo!!! it's  well\tlit\nand (very) detailed...",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; ﬁn ½ Ａ",
    "日本語のテキスト and emoji 🐈‍⬛ in the same prompt",
    "<|startoftext|> tokens in the <|endoftext|> text <extra_id_3> </s> <pad>",
)
LONG = "a very detailed painting of the harbour at night, " * 20 + "unforgettable"


def write_clip_tokenizer(folder: Path, *, pad: str = END, flags: bool = True, length: int = 77) -> int:
    """vocab.json and merges.txt with their settings -> rows of the vocabulary.

    flags: whether the settings give roles with flags and list added tokens, as newer files do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learnt = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learnt.normalizer = normalizers.Lowercase()
    learnt.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{byte}</w>" for byte in alphabet]
    # named beforehand, the ends of words have fixed ids: pairs of one frequency are merged by their ids
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=ends,
        end_of_word_suffix="</w>",
    )
    learnt.train_from_iterator(TEXT, trainer)
    merges = [tuple(merge) for merge in json.loads(learnt.to_str())["model"]["merges"]]
    # as published: bytes, bytes that end a word, pairs, and the two marks last; "!" has the id 0
    names = [
        *alphabet,
        *ends,
        *("".join(merge) for merge in merges),
        BEGIN,
        END,
    ]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    assert vocabulary["!"] == 0
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    roles = {"bos_token": BEGIN, "eos_token": END, "unk_token": END}
    config: dict[str, Any] = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "pad_token": pad,
    }
    if flags:
        listed = {"lstrip": False, "rstrip": False, "single_word": False}
        given = {
            role: {"__type": "AddedToken", "content": text, "normalized": True, **listed}
            for role, text in roles.items()
        }
        config |= {**given, "add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
        tokens = {text: text != pad or pad == END for text in (pad, BEGIN, END)}
        config["added_tokens_decoder"] = {
            str(vocabulary[text]): {"content": text, "normalized": normalized, "special": True, **listed}
            for text, normalized in tokens.items()
        }
    else:
        config |= roles
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(vocabulary)


def write_t5_tokenizer(folder: Path) -> int:
    """spiece.model and its settings -> rows of the vocabulary, marks of left-out spans included."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=model,
        vocab_size=PIECES,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": 512,
        "extra_ids": 100,
        "eos_token": "</s>",
    }
    config |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return PIECES + 100
