"""Small LLaVA folders as llava-hf publishes them, and transformers' models for them.

    write_llava(folder)                     # LLaVA-1.5: config.json and what a processor needs
    write_llava(folder, anyres=True)        # LLaVA-1.6

The tokenizer has the pipeline of Llama's published tokenizer.json: byte fallback, blanks as U+2581, one
before each text. Shapes by default: decoder 2 layers, D 64, 4 heads of 16, 2 key/value heads; tower 3 layers,
D 32, 2 heads of 16, tiles of 28 pixels, patch 7: 16 rows a tile.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from tokenizers.trainers import BpeTrainer

SIDE, PATCH = 28, 7
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
"""The five published shapes, for a tile of 28 pixels."""

VICUNA_TEMPLATE = """\
{% for message in messages %}\
{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}\
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}\
{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
"""Renders what llava-1.5-7b-hf's template renders."""

MISTRAL_TEMPLATE = """\
{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}\
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}\
{{ ' [/INST]' }}{% elif message['role'] == 'assistant' %}\
{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}"""
"""Renders what llava-v1.6-mistral-7b-hf's template renders for questions and answers."""

_CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT: [INST] [/INST]",
    "What is in this picture? Which digit is this? Read the number. Where is the 7? it is what it is, it is",
    "<box>(0,0),(0,0)</box> What is the number in the picture? Where are the digits? Describe the image.",
)


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=460, show_progress=False, special_tokens=special)
    words = [f"\u2581{word}" for line in _CORPUS for word in line.split()]
    tokenizer.normalizer, normalizer = None, tokenizer.normalizer
    tokenizer.train_from_iterator(words * 3, trainer)
    tokenizer.normalizer = normalizer
    written = json.loads(tokenizer.to_str())
    # bytes are pieces like any other: only the three roles are special
    written["added_tokens"] = [entry for entry in written["added_tokens"] if entry["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


def llama_tokenizer(*, with_image: bool = True) -> Tokenizer:
    """Llama's pipeline over a small vocabulary; `with_image`: llava-hf's two more tokens."""
    tokenizer = Tokenizer.from_str(_trained())
    if with_image:
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in ("<image>", "<pad>")]
        )
    return tokenizer


def write_tokenizer(folder: Path, *, with_image: bool = True) -> Tokenizer:
    tokenizer = llama_tokenizer(with_image=with_image)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = ("<unk>", "<s>", "</s>", *(("<image>", "<pad>") if with_image else ()))
    listed = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in tokens
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": listed,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>" if with_image else "<unk>",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 4096,
        "padding_side": "left",
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer


def llava_config(
    *,
    anyres: bool,
    image_token: int,
    tokens: int,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """config.json with the keys that llava-hf publishes, and small sizes where it leaves them out."""
    name = "LlavaNext" if anyres else "Llava"
    config: dict[str, Any] = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": "llava_next" if anyres else "llava",
        "image_token_index": image_token,
        "ignore_index": -100,
        "pad_token_id": image_token + 1,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 176,
            "max_position_embeddings": 4096,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "vocab_size": -(-tokens // 64) * 64,
            **(text or {}),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "image_size": SIDE,
            "intermediate_size": 84,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "patch_size": PATCH,
            "projection_dim": 24,
            "vocab_size": 32000,
            **(vision or {}),
        },
        **top,
    }
    if anyres:
        config.setdefault("image_grid_pinpoints", PINPOINTS)
        config["use_image_newline_parameter"] = True
    return config


def image_settings(side: int, *, anyres: bool, **keys: Any) -> dict[str, Any]:
    """preprocessor_config.json as llava-hf publishes it."""
    settings = {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "LlavaNextImageProcessor" if anyres else "CLIPImageProcessor",
        "processor_class": "LlavaNextProcessor" if anyres else "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": side},
        **keys,
    }
    if anyres:
        settings.setdefault("image_grid_pinpoints", PINPOINTS)
    return settings


def write_llava(
    folder: Path,
    *,
    anyres: bool = False,
    template: str | None = VICUNA_TEMPLATE,
    image: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a folder without weights and return it. `image` overrides keys of preprocessor_config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    written = llava_config(
        anyres=anyres,
        image_token=tokenizer.token_to_id("<image>"),
        tokens=tokenizer.get_vocab_size(),
        **config,
    )
    write_json(folder / "config.json", written)
    side = written["vision_config"]["image_size"]
    write_json(folder / "preprocessor_config.json", image_settings(side, anyres=anyres, **(image or {})))
    write_json(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": written["vision_config"]["patch_size"],
            "processor_class": "LlavaNextProcessor" if anyres else "LlavaProcessor",
            "vision_feature_select_strategy": written["vision_feature_select_strategy"],
        },
    )
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1})
    if template is not None:
        write_json(folder / "chat_template.json", {"chat_template": template})
    return folder


def transformers_model(config: dict[str, Any], seed: int = 0) -> Any:
    """transformers' model in float32 with random weights; biases and norms differ from 0 and 1 too."""
    import torch
    import transformers

    name = config["architectures"][0]
    theirs = getattr(transformers, name.replace("ForConditionalGeneration", "Config")).from_dict(config)
    model = getattr(transformers, name)(theirs).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                scale = 0.3 if "embed" in parameter_name else parameter[0].numel() ** -0.5
                parameter.copy_(noise * scale)
            elif parameter_name.endswith(("bias", "newline", "class_embedding")):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)
    return model


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
