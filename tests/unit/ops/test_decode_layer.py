"""decode_layer against a decoder layer in float64.

Shapes: B rows, C slots, D model dim, N query heads, K key/value heads, H head dim, F feed-forward width.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops.decode_layer import LayerCache, LayerWeights
from tests.unit.ops import oracle

D, F, H, C, EPS = 24, 40, 8, 7, 1e-6


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def turned(x_BNH, cos_BH, sin_BH):
    half = H // 2
    other = np.concatenate([-x_BNH[..., half:], x_BNH[..., :half]], axis=-1)
    return x_BNH * cos_BH[:, None] + other * sin_BH[:, None]


class Case:
    def __init__(self, lengths: list[int], N: int, K: int, biased: bool) -> None:
        B, wide, narrow = len(lengths), N * H, K * H
        sizes = [(D,), (D, wide), (D, narrow), (D, narrow), (wide, D), (D,), (D, F), (D, F), (F, D)]
        self.parameters = [oracle.draw(i, *s) / s[0] ** (0.5 * (len(s) - 1)) for i, s in enumerate(sizes)]
        self.biases = (
            [oracle.draw(20 + i, n) for i, n in enumerate((wide, narrow, narrow))] if biased else None
        )
        self.x, self.cos, self.sin = oracle.draw(30, B, D), oracle.draw(31, B, H), oracle.draw(32, B, H)
        self.keys, self.values = oracle.draw(33, B, K, C, H), oracle.draw(34, B, K, C, H)
        self.lengths, self.N, self.K = np.array(lengths, np.int32), N, K

    def expected(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """out, keys and values."""
        first, q, k, v, out, second, gate, up, down = self.parameters
        bias = self.biases or [0.0, 0.0, 0.0]
        B, group, normed = len(self.lengths), self.N // self.K, norm(self.x, first)
        q_BNH = turned((normed @ q + bias[0]).reshape(B, self.N, H), self.cos, self.sin)
        keys, values = self.keys.copy(), self.values.copy()
        rows = np.arange(B)
        keys[rows, :, self.lengths - 1] = turned((normed @ k + bias[1]).reshape(B, -1, H), self.cos, self.sin)
        values[rows, :, self.lengths - 1] = (normed @ v + bias[2]).reshape(B, -1, H)
        seen = np.zeros((B, self.N, H))
        for b, length in enumerate(self.lengths):
            for n in range(self.N):
                scores = keys[b, n // group, :length] @ q_BNH[b, n] / np.sqrt(H)
                seen[b, n] = oracle.softmax(scores) @ values[b, n // group, :length]
        total = self.x + seen.reshape(B, -1) @ out
        normed = norm(total, second)
        gated = normed @ gate
        return total + (gated / (1 + np.exp(-gated)) * (normed @ up)) @ down, keys, values

    def run(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def tensor(array):
            return paddle.to_tensor(array.astype(np.float32))

        first, q, k, v, out, second, *mlp = map(tensor, self.parameters)
        biases = None if self.biases is None else tuple(map(tensor, self.biases))
        weights = LayerWeights(first, (q, k, v), biases, out, second, tuple(mlp), EPS)
        B = len(self.lengths)
        flat = (np.arange(B * self.K) * C).reshape(B, self.K) + self.lengths[:, None] - 1
        keys, values = (tensor(array.reshape(-1, H)) for array in (self.keys, self.values))
        cache = LayerCache(keys, values, self.lengths, paddle.to_tensor(flat.reshape(-1)))
        with paddle.no_grad():
            found = ops.decode_layer(
                tensor(self.x), weights, cache, tensor(self.cos[:, None]), tensor(self.sin[:, None])
            )
        full = (part.numpy().reshape(self.keys.shape) for part in (keys, values))
        return found.numpy(), *full


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("lengths", "heads"),
    [([1], (2, 1)), ([7], (4, 2)), ([3, 1, 7], (3, 3)), ([5] * 9, (4, 1)), ([2] * 20, (2, 2))],
)
def test_a_layer(lengths, heads, biased) -> None:
    case = Case(lengths, *heads, biased)
    for found, expected in zip(case.run(), case.expected()):
        assert oracle.distance(found, expected) < oracle.FORWARD


def test_only_the_open_slots_are_written() -> None:
    case = Case([3, 5], 4, 2, True)
    _, *found = case.run()
    for after, before in zip(found, (case.keys, case.values)):
        changed = (after != before.astype(np.float32)).any(axis=(1, 3))
        assert [np.flatnonzero(row).tolist() for row in changed] == [[2], [4]]


def test_what_is_refused() -> None:
    for lengths, words in (
        ([8], "a length in lengths_B is 8, expected 1 to 7"),
        ([0], "is 0, expected 1 to 7"),
    ):
        with pytest.raises(ValueError, match=words):
            Case(lengths, 2, 1, False).run()
    case = Case([1], 2, 1, False)
    case.values = case.values[:, :, :5]
    with pytest.raises(ValueError, match=r"the shape of keys is \[7, 8\], expected .* as values have"):
        case.run()
