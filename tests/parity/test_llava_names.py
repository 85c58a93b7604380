"""The published sizes of LLaVA: names and shapes of all weights as in transformers, without memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

VISION = dict(
    hidden_size=1024,
    image_size=336,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=24,
    patch_size=14,
    projection_dim=768,
)
MISTRAL = dict(
    model_type="mistral",
    intermediate_size=14336,
    max_position_embeddings=32768,
    num_key_value_heads=8,
    rope_theta=1e6,
    sliding_window=None,
)
VICUNA_13B = dict(
    hidden_size=5120,
    intermediate_size=13824,
    num_attention_heads=40,
    num_hidden_layers=40,
    num_key_value_heads=40,
)
PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {"anyres": False},
    "llava-1.5-13b": {"anyres": False, "text": VICUNA_13B},
    "llava-v1.6-vicuna-7b": {"anyres": True},
    "llava-v1.6-vicuna-13b": {"anyres": True, "text": VICUNA_13B},
    "llava-v1.6-mistral-7b": {"anyres": True, "text": MISTRAL},
}
LEFT_OUT = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
"""Of the decoder; llava-hf's files leave them to the defaults, so these do too."""

PROGRAM = """
import json, sys
import paddle
from mix_core.models.llava import FAMILY
from mix_core.models.llava.weights import published_name, slots
config = FAMILY.config_from_dict(json.loads(sys.stdin.read()))
with paddle.LazyGuard():
    model = FAMILY.build(config)
assert not any(slot.parameter._is_initialized() for slot in slots(model).values())
print(json.dumps({published_name(name): list(slot.shape) for name, slot in slots(model).items()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes(size: str) -> None:
    import torch
    import transformers

    from mix_core.models.llava.names import our_name, published_name
    from tests.builders.llava import llava_config

    options = PUBLISHED[size]
    pinpoints = {"image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}
    config = llava_config(
        anyres=options["anyres"],
        image_token=32000,
        tokens=32002,
        vision=VISION,
        **(pinpoints if options["anyres"] else {}),
    )
    for key in (*LEFT_OUT, "num_key_value_heads"):
        del config["text_config"][key]
    config["text_config"] |= options.get("text", {})
    name = config["architectures"][0]
    with torch.device("meta"):
        made = getattr(transformers, name.replace("ForConditionalGeneration", "Config")).from_dict(config)
        theirs = getattr(transformers, name)(made)
    expected = {published_name(our_name(n)): list(p.shape) for n, p in theirs.named_parameters()}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == expected
    assert expected["language_model.model.embed_tokens.weight"] == [
        32064,
        5120 if "13b" in size else 4096,
    ]
