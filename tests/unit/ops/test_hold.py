"""hold_weights: products with held weights are those without, to the bit, and follow weights that change.

Shapes: I input features, O output features.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.device import cpu_held
from tests.unit.ops import oracle

ROWS, INPUTS, OUTPUTS = 300, 1100, 520


def tensor(seed: int, *shape: int) -> paddle.Tensor:
    return paddle.to_tensor(oracle.draw(seed, *shape).astype(np.float32))


def products(x, weights, bias) -> list[np.ndarray]:
    """Of all operators that take such a weight: many rows, which are what holding is for, and one."""
    gate, up, down = weights
    with paddle.no_grad():
        outs = (ops.linear(x, gate, bias), *ops.qkv(x, (gate, up, up)), ops.gated_mlp(x, weights))
        return [out.numpy() for out in (*outs, ops.linear(x[:1], gate), ops.linear(x[:, :OUTPUTS], down))]


@pytest.fixture
def operands():
    gate, up = tensor(1, INPUTS, OUTPUTS), tensor(2, INPUTS, OUTPUTS)
    return tensor(0, ROWS, INPUTS), (gate, up, tensor(3, OUTPUTS, INPUTS)), tensor(4, OUTPUTS)


def test_the_same_bits(operands) -> None:
    before = products(*operands)
    release = ops.hold_weights(operands[1])
    held = products(*operands)
    release()
    for one, other in zip(before, held, strict=True):
        np.testing.assert_array_equal(one, other)
    release()  # once more does nothing
    for one, other in zip(before, products(*operands), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_change_while_they_are_held(operands) -> None:
    x, (gate, up, down), bias = operands
    release = ops.hold_weights([gate, up, down])
    with paddle.no_grad():
        gate.scale_(0.5)
        found = ops.linear(x, gate, bias).numpy()
    release()
    assert oracle.distance(found, x.numpy().astype(np.float64) @ gate.numpy() + bias.numpy()) < oracle.FORWARD


def test_nothing_to_hold_and_what_is_no_matrix() -> None:
    ops.hold_weights([])()
    with pytest.raises(ValueError, match=r"hold_weights: the shape of a weight is \[3\], expected 2 axes"):
        ops.hold_weights([tensor(0, 3)])


def test_memory_that_is_not_there(monkeypatch) -> None:
    class Library:
        """Where a packed weight takes 600 bytes."""

        def __init__(self) -> None:
            self.held: list[int] = []
            self.mix_held_bytes = lambda *shape: 600

        def mix_hold_weight(self, address, *shape) -> None:
            self.held.append(address.value)

        def mix_release_weight(self, address) -> None:
            self.held.remove(address.value)

    weights, addresses = [tensor(0, 4, 8), tensor(1, 8, 4)], [64, 128]
    for free, held in ((1200 * cpu_held.SHARE - 1, []), (1200 * cpu_held.SHARE, [64, 128])):
        library = Library()
        monkeypatch.setattr(cpu_held, "free_memory", lambda free=free: free)
        release = cpu_held.hold(weights, addresses, library)
        assert library.held == held
        release()
        assert library.held == []
