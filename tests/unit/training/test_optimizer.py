"""AdamW beside torch's, groups of rates, and moments that go through a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.errors import CheckpointError
from mix_core.training import state


@pytest.fixture(scope="module")
def paddle():
    import mix_core.device as device

    device.activate("cpu")
    import paddle

    return paddle


def linear(paddle, seed: int = 0):
    """A small model with known weights: 5 -> 3, with bias."""
    layer = paddle.nn.Linear(5, 3)
    rng = np.random.default_rng(seed)
    layer.weight.set_value(rng.standard_normal((5, 3)).astype(np.float32))
    layer.bias.set_value(rng.standard_normal(3).astype(np.float32))
    return layer


def learn(paddle, layer, optimizer, steps: range) -> None:
    for step in steps:
        x = paddle.to_tensor(np.random.default_rng(100 + step).standard_normal((4, 5)).astype(np.float32))
        (layer(x) ** 2).sum().backward()
        optimizer.step(0.1 / step, grad_scale=0.5)
        optimizer.clear_grad()


def test_steps_are_those_of_torch(paddle):
    torch = pytest.importorskip("torch", reason="the peer to compare with is not installed")
    from mix_core.training.optimizer import AdamW

    layer = linear(paddle)
    peer = torch.nn.Linear(5, 3)
    peer.weight.data = torch.tensor(layer.weight.numpy().T.copy())
    peer.bias.data = torch.tensor(layer.bias.numpy())
    groups = [{"params": [peer.weight], "weight_decay": 0.3}, {"params": [peer.bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.95), eps=1e-6)
    ours = AdamW(layer, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.3)
    for step in range(1, 8):
        learn(paddle, layer, ours, range(step, step + 1))
        x = torch.tensor(np.random.default_rng(100 + step).standard_normal((4, 5)).astype(np.float32))
        (0.5 * (peer(x) ** 2).sum()).backward()
        for group in theirs.param_groups:
            group["lr"] = 0.1 / step
        theirs.step()
        theirs.zero_grad()
        np.testing.assert_allclose(layer.weight.numpy(), peer.weight.detach().numpy().T, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(layer.bias.numpy(), peer.bias.detach().numpy(), rtol=2e-6, atol=2e-6)


def test_a_rate_factor_is_another_learning_rate(paddle):
    from mix_core.training.optimizer import AdamW

    slow, fast = linear(paddle), linear(paddle)
    before = slow.weight.numpy()
    learn(paddle, slow, AdamW(slow, rate_factors={"weight": 0.25}), range(1, 2))
    learn(paddle, fast, AdamW(fast), range(1, 2))
    moved = (slow.weight.numpy() - before) / (fast.weight.numpy() - before)
    np.testing.assert_allclose(moved, 0.25, rtol=1e-3)
    np.testing.assert_array_equal(slow.bias.numpy(), fast.bias.numpy())


def test_frozen_parameters_have_no_moments(paddle):
    from mix_core.training.optimizer import AdamW

    layer = linear(paddle)
    layer.bias.stop_gradient = True
    assert [name for name, _ in AdamW(layer).named_parameters()] == ["weight"]


def test_the_norm_is_over_all_gradients(paddle):
    from mix_core.training.optimizer import AdamW

    layer = linear(paddle)
    optimizer = AdamW(layer)
    loss = (layer(paddle.ones([2, 5])) ** 3).sum()
    loss.backward()
    gradients = [parameter.grad.numpy() for parameter in (layer.weight, layer.bias)]
    norm, beside = optimizer.gradient_norm(loss.detach())
    assert norm == pytest.approx(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients)), rel=1e-6)
    assert beside == pytest.approx(float(loss))


def save(optimizer, folder) -> state.StateReader:
    inner = folder / state.FOLDER
    inner.mkdir(parents=True)
    pieces = [(one.name, state.whole_piece(one.tensor.numpy())) for one in optimizer.kept()]
    state.write_manifest(inner, 3, {}, state.write_pieces(inner, "optimizer", pieces))
    return state.StateReader(folder)


def test_moments_through_a_checkpoint_go_on_bit_for_bit(paddle, tmp_path):
    from mix_core.training.optimizer import AdamW

    straight, stopped = linear(paddle), linear(paddle)
    learn(paddle, straight, AdamW(straight, weight_decay=0.1), range(1, 7))
    first = AdamW(stopped, weight_decay=0.1)
    learn(paddle, stopped, first, range(1, 4))
    reader = save(first, tmp_path / "checkpoint-3")
    second = AdamW(stopped, weight_decay=0.1)
    second.load(reader, steps=3)
    learn(paddle, stopped, second, range(4, 7))
    np.testing.assert_array_equal(stopped.weight.numpy(), straight.weight.numpy())
    np.testing.assert_array_equal(stopped.bias.numpy(), straight.bias.numpy())


def test_moments_of_another_model_are_refused(paddle, tmp_path):
    from mix_core.training.optimizer import AdamW

    reader = save(AdamW(linear(paddle)), tmp_path / "checkpoint-3")
    with pytest.raises(
        CheckpointError, match=r"optimizer\.mean\.weight has shape \(5, 3\), the model's is \(2, 2\)"
    ):
        AdamW(paddle.nn.Linear(2, 2)).load(reader, 3)
    with pytest.raises(CheckpointError, match=r"holds no optimizer\.mean\.0\.weight"):
        AdamW(paddle.nn.Sequential(linear(paddle))).load(reader, 3)
