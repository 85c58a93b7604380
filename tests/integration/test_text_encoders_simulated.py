"""CLIP's and T5's text encoders in 16 bits on a simulated device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.environment import run_simulated

PROGRAM = Path(__file__).parents[1] / "programs" / "text_encoders.py"
LIMITS = {"bfloat16": 4e-2, "float16": 6e-3}
"""Twice an operator's own: these are a few layers of them."""
CLIP = {
    "architectures": ["CLIPTextModelWithProjection"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 24,
    "eos_token_id": 2,
}
T5 = {"vocab_size": 100, "d_model": 48, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
T5 |= {"feed_forward_proj": "gated-gelu"}


@pytest.mark.slow
def test_sixteen_bits_stay_near_float32_where_t5_outgrows_float16(tmp_path: Path) -> None:
    for name, config in (
        ("clip", {**CLIP, "model_type": "clip_text_model"}),
        ("t5", {**T5, "model_type": "t5"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    done = run_simulated([PROGRAM, tmp_path], tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["peak"] > 1.5 * 65504
    assert seen["fallbacks"] == {}
    for name, found in seen["found"].items():
        dtype = name.split()[1]
        assert found["dtype"] == dtype and found["distance"] < LIMITS[dtype], name
        assert found["finite"] and found["gradients"] > 10, name
