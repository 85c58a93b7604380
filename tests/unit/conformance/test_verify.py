"""The gates of `mix-core verify` and the layer that it names; the two sides are arrays here."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.conformance.verify import _compare, verify
from mix_core.errors import BadInputError

NAMES = np.array(["embed", "block.0", "head"])


def side(losses=(2.0, 1.0), logits=(1.0, 2.0), layers=(1.0, 1.0, 1.0)):
    kept = {f"layer.{i}": np.full(4, value) for i, value in enumerate(layers)}
    return {"losses": np.array(losses), "logits": np.array(logits), "names": NAMES, **kept}


def test_equal_sides_agree():
    found = _compare(side(), side(), "float32")
    assert (found["ok"], found["problems"], found["first_layer"]) == (True, [], None)


def test_the_first_layer_that_differs_is_named():
    found = _compare(side(logits=(1.0, 2.5), layers=(1.0, 1.1, 1.3)), side(), "float32")
    assert found["first_layer"] == "block.0"
    assert "logits are off by" in found["problems"][0]


@pytest.mark.parametrize(
    ("dtype", "losses", "ok"),
    [
        ("float32", (2.0, 1.009), True),
        ("float32", (2.0, 1.011), False),
        ("bfloat16", (2.0, 1.03), True),
        ("bfloat16", (2.0, 1.05), False),
        ("float32", (2.0, float("nan")), False),
    ],
)
def test_gates_of_the_losses(dtype, losses, ok):
    assert _compare(side(losses), side(), dtype)["ok"] is ok


def test_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="--dtype is 'int8'"):
        verify(str(tmp_path), "cpu", dtype="int8")
    with pytest.raises(BadInputError, match="--steps is 0"):
        verify(str(tmp_path), "cpu", steps=0)
