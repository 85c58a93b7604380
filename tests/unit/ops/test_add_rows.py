"""Rows added into a tensor: to the bit what index_add gives, in the tensor's own memory."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import _C_ops

from mix_core.ops.add_rows import add_distinct_rows, add_rows


@pytest.mark.parametrize("labels", [1, 7, 400])
def test_repeated_places_add_up_in_order(labels):
    rng = np.random.default_rng(labels)
    places = rng.integers(0, labels, 300)
    values = paddle.to_tensor(rng.standard_normal((300, 24), dtype=np.float32))
    total = paddle.to_tensor(rng.standard_normal((400, 24), dtype=np.float32))
    expected = _C_ops.index_add_(total.clone(), paddle.to_tensor(places), values, 0).numpy()
    memory = total.data_ptr()
    found = add_rows(total, places, values)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.data_ptr() == total.data_ptr() == memory


def test_distinct_places():
    rng = np.random.default_rng(0)
    places = paddle.to_tensor(rng.permutation(40)[:20])
    values = paddle.to_tensor(rng.standard_normal((20, 8), dtype=np.float32))
    total = paddle.to_tensor(rng.standard_normal((40, 8), dtype=np.float32))
    expected = _C_ops.index_add_(total.clone(), places, values, 0).numpy()
    np.testing.assert_array_equal(add_distinct_rows(total, places, values).numpy(), expected)
