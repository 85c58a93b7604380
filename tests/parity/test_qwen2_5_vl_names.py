"""The published sizes: names and shapes of all weights as in transformers, without memory for either."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
pytest.importorskip("torch", reason="live parity needs torch")

PUBLISHED = {
    "3B": dict(
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=151936,
    ),
    "7B": dict(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    "72B": dict(
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=152064,
    ),
}
VISION = dict(
    depth=32,
    hidden_size=1280,
    intermediate_size=3420,
    num_heads=16,
    window_size=112,
    fullatt_block_indexes=[7, 15, 23, 31],
)

PROGRAM = """
import json, sys
import paddle
from mix_core.models.qwen2_5_vl import FAMILY
from mix_core.models.qwen2_5_vl.weights import slots
config = FAMILY.config_from_dict(json.loads(sys.stdin.read()))
with paddle.LazyGuard():
    model = FAMILY.build(config)
assert not any(parameter._is_initialized() for parameter in model.parameters())
print(json.dumps({name: list(slot.shape) for name, slot in slots(model).items()}))
"""


@pytest.mark.parametrize("size", ["3B", "7B", pytest.param("72B", marks=pytest.mark.slow)])
def test_names_and_shapes(size: str) -> None:
    import json

    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from mix_core.models.qwen2_5_vl.weights import published_name
    from tests.builders.checkpoints import flat_config
    from tests.parity.batches import IDS

    tied = size == "3B"
    config = flat_config(IDS, 320, text=PUBLISHED[size], vision=VISION, tie_word_embeddings=tied)
    config["rope_scaling"] = {"type": "mrope", "mrope_section": [16, 24, 24]}
    with torch.device("meta"):
        theirs = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config))
    expected = {published_name(name): list(p.shape) for name, p in theirs.named_parameters()}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == expected
    assert ("lm_head.weight" in expected) is not tied
