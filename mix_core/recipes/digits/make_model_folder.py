"""Makes model/, the folder of the digits recipe: a small Qwen2.5-VL without weights.

Run: python mix_core/recipes/digits/make_model_folder.py

The layout is the one Qwen publishes, every key explicit. The tokenizer is a byte-level BPE with Qwen2's way
of splitting text (digits stand alone), all 256 bytes, and merges that make the recipe's words short; so any
text can be asked, in more tokens. Ids: bytes and merges first, special tokens after them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mix_core.data.digits import PROMPTS

FOLDER = Path(__file__).parent / "model"

PATCH_PX = 6
MERGE = 2
CELL_PX = PATCH_PX * MERGE
HIDDEN = 128
HEADS = 4
MIN_CELLS, MAX_CELLS = 4, 16  # the smallest and the largest picture of the data: 24 x 24 and 48 x 48 pixels

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = (
    *PROMPTS.values(),
    "system\n",
    "user\n",
    "assistant\n",
    "<box>(0,0),(0,0)</box>",
    "<ref>digit</ref><box>",
    "Picture 1: What is the number in the picture? Where are the digits?\n",
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' or 'video' in part -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # more than there are pairs: every word becomes one token
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    listed = {
        str(tokenizer.token_to_id(text)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for text in SPECIAL
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": listed,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.06,
        "intermediate_size": 352,
        "max_position_embeddings": 2048,
        "max_window_layers": 4,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": 2048,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 4,
            "hidden_act": "silu",
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "spatial_patch_size": PATCH_PX,
            "window_size": 4 * CELL_PX,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 1,  # no video; and transformers 5.3.0 would scale places by it
            "temporal_patch_size": 2,
        },
        "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
    }


def preprocessor_config() -> dict[str, Any]:
    return {
        "min_pixels": MIN_CELLS * CELL_PX**2,
        "max_pixels": MAX_CELLS * CELL_PX**2,
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "do_sample": False,
        "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")],
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    (FOLDER / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    for name, content in {
        "config.json": model_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(tokenizer),
        "preprocessor_config.json": preprocessor_config(),
        "generation_config.json": generation_config(tokenizer),
    }.items():
        (FOLDER / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{FOLDER}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
