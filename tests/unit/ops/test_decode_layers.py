"""decode_layers against decoder layers in float64.

Shapes: B rows, C slots, D model dim, N query heads, K key/value heads, H head dim, F feed-forward width.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops.decode_layers import LayerCache, LayerWeights
from mix_core.ops.matmul_int8 import Int8Matrix, quantized
from tests.unit.ops import oracle

D, F, H, C, EPS = 24, 40, 8, 7, 1e-6


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def turned(x_BNH, cos_BH, sin_BH):
    half = H // 2
    other = np.concatenate([-x_BNH[..., half:], x_BNH[..., :half]], axis=-1)
    return x_BNH * cos_BH[:, None] + other * sin_BH[:, None]


def tensor(array):
    return paddle.to_tensor(array.astype(np.float32))


class Layer:
    """A layer's parameters, and what its cache holds before the call."""

    def __init__(self, seed: int, B: int, N: int, K: int, biased: bool, in_steps: bool) -> None:
        wide, narrow = N * H, K * H
        sizes = [(D,), (D, wide), (D, narrow), (D, narrow), (wide, D), (D,), (D, F), (D, F), (F, D)]
        self.parameters = [
            oracle.draw(seed + i, *s) / s[0] ** (0.5 * (len(s) - 1)) for i, s in enumerate(sizes)
        ]
        widths = (wide, narrow, narrow)
        self.biases = [oracle.draw(seed + 20 + i, n) for i, n in enumerate(widths)] if biased else None
        self.keys, self.values = oracle.draw(seed + 33, B, K, C, H), oracle.draw(seed + 34, B, K, C, H)
        self.N, self.K = N, K
        self.rounded = {i: quantized(p.T) for i, p in enumerate(self.parameters) if p.ndim == 2 and in_steps}
        for i, (steps_OI, scale_O) in self.rounded.items():
            self.parameters[i] = (steps_OI.astype(np.float64) * scale_O[:, None]).T

    def expected(self, x, lengths, cos, sin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """out, keys and values."""
        first, q, k, v, out, second, gate, up, down = self.parameters
        bias = self.biases or [0.0, 0.0, 0.0]
        B, group, normed = len(lengths), self.N // self.K, norm(x, first)
        q_BNH = turned((normed @ q + bias[0]).reshape(B, self.N, H), cos, sin)
        keys, values = self.keys.copy(), self.values.copy()
        rows = np.arange(B)
        keys[rows, :, lengths - 1] = turned((normed @ k + bias[1]).reshape(B, -1, H), cos, sin)
        values[rows, :, lengths - 1] = (normed @ v + bias[2]).reshape(B, -1, H)
        seen = np.zeros((B, self.N, H))
        for b, length in enumerate(lengths):
            for n in range(self.N):
                scores = keys[b, n // group, :length] @ q_BNH[b, n] / np.sqrt(H)
                seen[b, n] = oracle.softmax(scores) @ values[b, n // group, :length]
        total = x + seen.reshape(B, -1) @ out
        normed = norm(total, second)
        gated = normed @ gate
        return total + (gated / (1 + np.exp(-gated)) * (normed @ up)) @ down, keys, values

    def weights(self) -> LayerWeights:
        first, q, k, v, out, second, *mlp = map(self.parameter, range(9))
        biases = None if self.biases is None else tuple(map(tensor, self.biases))
        return LayerWeights(first, (q, k, v), biases, out, second, tuple(mlp), EPS)

    def parameter(self, i: int) -> paddle.Tensor | Int8Matrix:
        if i not in self.rounded:
            return tensor(self.parameters[i])
        return Int8Matrix(*map(paddle.to_tensor, self.rounded[i]))


class Case:
    def __init__(self, lengths: list[int], N: int, K: int, biased: bool, in_steps: bool = False) -> None:
        B = len(lengths)
        self.layers = [Layer(40 * index, B, N, K, biased, in_steps) for index in range(2)]
        self.x, self.cos, self.sin = oracle.draw(900, B, D), oracle.draw(901, B, H), oracle.draw(902, B, H)
        self.lengths, self.K = np.array(lengths, np.int32), K

    def expected(self) -> list[np.ndarray]:
        """out, and the keys and values of each layer."""
        x, caches = self.x, []
        for layer in self.layers:
            x, *kept = layer.expected(x, self.lengths, self.cos, self.sin)
            caches += kept
        return [x, *caches]

    def run(self) -> list[np.ndarray]:
        B = len(self.lengths)
        flat = (np.arange(B * self.K) * C).reshape(B, self.K) + self.lengths[:, None] - 1
        rows = paddle.to_tensor(flat.reshape(-1))
        caches = []
        for layer in self.layers:
            keys, values = (tensor(array.reshape(-1, H)) for array in (layer.keys, layer.values))
            caches.append(LayerCache(keys, values, self.lengths, rows))
        tables = tensor(self.cos[:, None]), tensor(self.sin[:, None])
        with paddle.no_grad():
            weights = [layer.weights() for layer in self.layers]
            found = ops.decode_layers(tensor(self.x), weights, caches, *tables)
        kept = [part for cache in caches for part in (cache.keys, cache.values)]
        return [found.numpy(), *(part.numpy().reshape([B, self.K, -1, H]) for part in kept)]


@pytest.mark.parametrize("in_steps", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("lengths", "heads"),
    [([1], (2, 1)), ([7], (4, 2)), ([3, 1, 7], (3, 3)), ([5] * 9, (4, 1)), ([2] * 20, (2, 2))],
)
def test_layers(lengths, heads, biased, in_steps) -> None:
    case = Case(lengths, *heads, biased, in_steps)
    for found, expected in zip(case.run(), case.expected(), strict=True):
        assert oracle.distance(found, expected) < oracle.FORWARD


def test_only_the_open_slots_are_written() -> None:
    case = Case([3, 5], 4, 2, True)
    _, *found = case.run()
    held = [array for layer in case.layers for array in (layer.keys, layer.values)]
    for after, before in zip(found, held, strict=True):
        changed = (after != before.astype(np.float32)).any(axis=(1, 3))
        assert [np.flatnonzero(row).tolist() for row in changed] == [[2], [4]]


def test_matrices_of_two_kinds_go_by_their_parts() -> None:
    case = Case([3, 5], 4, 2, True)
    case.layers[1] = Layer(40, 2, 4, 2, True, True)
    for found, expected in zip(case.run(), case.expected(), strict=True):
        assert oracle.distance(found, expected) < oracle.FORWARD


def test_what_is_refused() -> None:
    for lengths, words in (
        ([8], "a length in lengths_B is 8, expected 1 to 7"),
        ([0], "is 0, expected 1 to 7"),
    ):
        with pytest.raises(ValueError, match=words):
            Case(lengths, 2, 1, False).run()
    case = Case([1], 2, 1, False)
    case.layers[1].values = case.layers[1].values[:, :, :5]
    with pytest.raises(ValueError, match=r"the shape of keys is \[7, 8\], expected .* as values have"):
        case.run()
    case = Case([1], 2, 1, False)
    with pytest.raises(ValueError, match="caches is 1 layers, expected 2, one for each of layers"):
        x, weights = tensor(case.x), [layer.weights() for layer in case.layers]
        cache = LayerCache(tensor(case.x), tensor(case.x), case.lengths, tensor(case.x))
        ops.decode_layers(x, weights, [cache], x, x)
    with pytest.raises(ValueError, match="layers is matrices that are not in 8 bits, expected an Int8Matrix"):
        ops.decode_layers_int8(x, weights, [cache] * 2, x, x)
