"""T5's encoder: distances, attention with a bias, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.errors import BadInputError, DataError
from mix_core.models.t5.attention import biased_attention
from mix_core.models.t5.config import config_from_dict, config_to_dict
from mix_core.models.t5.geometry import distance_buckets
from mix_core.models.t5.weights import load_t5, save_t5
from tests.unit.ops import oracle

CONFIG: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 50,
    "d_model": 20,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
}


def test_near_distances_have_a_bucket_each_and_far_ones_share() -> None:
    buckets = distance_buckets(200, 32, 128)
    np.testing.assert_array_equal(buckets[0, :9], [0, *range(17, 24), 24])
    np.testing.assert_array_equal(buckets[:9, 0], range(9))
    assert buckets[0, 127] == buckets[0, 199] == 31 and buckets[199, 0] == 15
    assert (np.diff(buckets[0, 1:]) >= 0).all() and len(np.unique(buckets)) == 31  # 16: no step ahead


@pytest.mark.parametrize("frozen", [(), (0, 3), (1, 2)])
def test_attention_with_a_bias_and_its_gradients(frozen: tuple[int, ...]) -> None:
    arrays = [oracle.draw(i, 2, 5, 3, 4) for i in range(3)] + [oracle.draw(3, 3, 5, 5)]

    def formula(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray) -> np.ndarray:
        scores = np.einsum("bsnh,bmnh->bnsm", q, k) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("bnsm,bmnh->bsnh", weights / weights.sum(-1, keepdims=True), v)

    tensors = [
        paddle.to_tensor(array.astype(np.float32), stop_gradient=i in frozen)
        for i, array in enumerate(arrays)
    ]
    found = biased_attention(*tensors)
    assert oracle.distance(found.numpy(), formula(*arrays)) < 2e-6
    cotangent = oracle.draw(9, 2, 5, 3, 4)
    (found * paddle.to_tensor(cotangent.astype(np.float32))).sum().backward()
    expected = oracle.numeric_gradients(formula, arrays, cotangent)
    for i, tensor in enumerate(tensors):
        assert (tensor.grad is None) == (i in frozen)
        if tensor.grad is not None:
            assert oracle.distance(tensor.grad.numpy(), expected[i]) < 1e-5, i


def test_rows_of_a_batch_do_not_see_each_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = load_t5(tmp_path, random_init=True)
    ids = np.random.default_rng(0).integers(0, 50, (3, 7))
    whole = model(ids)
    assert whole.shape == [3, 7, 20]
    np.testing.assert_allclose(model(ids[1:2]).numpy(), whole[1:2].numpy(), atol=1e-6)
    with pytest.raises(DataError, match=r"shape \(1, 1\) go up to 50, expected rows of less than 50"):
        model(np.array([[50]]))


def test_an_embedding_under_its_second_name_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = load_t5(tmp_path, random_init=True)
    save_t5(model, tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    stored["encoder.embed_tokens.weight"] = stored.pop("shared.weight")
    stored["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.ones((2, 2), np.float32)
    save_file(stored, file, metadata={"format": "pt"})
    again = load_t5(tmp_path)
    np.testing.assert_array_equal(again.shared.weight.numpy(), model.shared.weight.numpy())
    assert again.config == config_from_dict(config_to_dict(model.config))


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"model_type": "mt5"}, "model_type 'mt5', expected 't5'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'; built are gated-gelu, relu"),
        ({"num_heads": 0}, "num_heads = 0, expected a whole number of 1 or more"),
        (
            {"relative_attention_num_buckets": 30},
            "num_buckets = 30 up to a distance of 128; expected a multiple",
        ),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        config_from_dict({**CONFIG, **changes})
