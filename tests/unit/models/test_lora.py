"""Adapters on a small model: what they compute, what learns, what is merged; for every installed family.

Shapes: B batch, S sequence, V vocabulary, T tokens, I input features, O output features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.models.common.layers import Linear
from mix_core.models.common.lora import (
    LoRASettings,
    adapted_maps,
    adapter_names,
    add_adapter,
    init_adapter,
    linear_maps,
    merge_adapter,
    of_name,
    use_adapter,
)
from mix_core.models.common.recompute import recompute
from mix_core.models.common.weights import slots_of
from mix_core.models.registry import families

KINDS = {
    "lora": LoRASettings(rank=4, alpha=8.0),
    "rslora": LoRASettings(rank=4, alpha=3.0, rslora=True),
    "dora": LoRASettings(rank=4, alpha=8.0, dora=True),
}


def built(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    family = families()[name]
    tiny = family.tiny()
    model = family.build(family.config_from_dict(tiny.config))
    family.init_weights(model, 0)
    model.eval()
    return model, tiny.batch


def with_adapter(model: Any, settings: LoRASettings, name: str = "a", seed: int = 0) -> None:
    """An adapter with numbers in it on every map, as if it had learned."""
    maps = linear_maps(model)
    add_adapter(model, maps, name, settings)
    init_adapter(maps, name, seed)
    rng = np.random.default_rng(seed)
    for _, adapter in of_name(maps, name):
        adapter.up.set_value(rng.normal(0, 0.05, adapter.up.shape).astype(np.float32))
        if adapter.magnitude is not None:
            factor = rng.uniform(0.8, 1.2, adapter.magnitude.shape).astype(np.float32)
            adapter.magnitude.set_value(adapter.magnitude.numpy() * factor)


def logits_of(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    with paddle.no_grad():
        mask = batch["attention_mask"].astype(bool)
        return model.logits(batch).numpy()[mask]


def decoded(model: Any, batch: dict[str, np.ndarray], tokens: int = 3) -> np.ndarray:
    """Logits after the prompt and after each of some tokens, over the cache."""
    prompt = {name: values for name, values in batch.items() if name != "labels"}
    B, S = prompt["input_ids"].shape
    cache = model.new_cache(B, S + tokens)
    all_logits = [model.prefill(cache, prompt)]
    for token in range(tokens):
        all_logits.append(model.decode(cache, np.full(B, 7 + token)))
    return np.stack([one.numpy() for one in all_logits])


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", sorted(name for name, family in families().items() if family.tiny))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_merged_is_the_adapter_also_in_cached_decoding(name, kind):
    model, batch = built(name)
    names = [parameter for parameter, _ in model.named_parameters()]
    alone, alone_decoded = logits_of(model, batch), decoded(model, batch)
    with_adapter(model, KINDS[kind])
    adapted, adapted_decoded = logits_of(model, batch), decoded(model, batch)
    assert apart(adapted, alone) > 0.01 and apart(adapted_decoded, alone_decoded) > 0.01
    assert set(slots_of(model)) == set(names)  # the published files stay the model's
    merge_adapter(model)
    assert [parameter for parameter, _ in model.named_parameters()] == names
    assert apart(logits_of(model, batch), adapted) < 3e-6
    assert apart(decoded(model, batch), adapted_decoded) < 3e-6


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_new_adapter_changes_nothing(kind):
    model, batch = built("qwen2_5_vl")
    alone = logits_of(model, batch)
    maps = linear_maps(model)
    add_adapter(model, maps, "new", KINDS[kind])
    init_adapter(maps, "new", 0)
    # what it adds is 0, but an adapted map is not computed in one kernel with its neighbours
    assert apart(logits_of(model, batch), alone) < 1e-6
    _, first = next(of_name(maps, "new"))
    limit = first.down.shape[0] ** -0.5
    assert 0.5 * limit < np.abs(first.down.numpy()).max() <= limit and not first.up.numpy().any()


def test_adapters_are_switched_and_leave_no_trace():
    model, batch = built("qwen2_5_vl")
    alone = logits_of(model, batch)
    with_adapter(model, KINDS["lora"], "first", 0)
    first = logits_of(model, batch)
    with_adapter(model, KINDS["dora"], "second", 1)
    second = logits_of(model, batch)
    assert apart(first, second) > 0.01 and adapter_names(model) == ["first", "second"]
    for name, expected in (("first", first), (None, alone), ("second", second)):
        use_adapter(model, name)
        assert np.array_equal(logits_of(model, batch), expected)


@pytest.mark.parametrize("recomputed", [False, True])
def test_only_adapters_get_gradients_and_recomputing_changes_none(recomputed):
    model, batch = built("qwen2_5_vl")
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with_adapter(model, LoRASettings(rank=4, alpha=8.0, dropout=0.3, dora=True))
    gradients = []
    for again in (False, recomputed):
        model.recompute = again
        model.train()
        model.random.start(seed=1, step=1, samples=np.arange(2))
        loss, _ = model.loss(batch)
        loss.backward()
        found = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
        gradients.append(found)
        for parameter in model.parameters():
            parameter.clear_gradient(False)
    assert len(gradients[0]) == 3 * len(adapted_maps(model))
    assert all(".adapters." in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert np.array_equal(gradients[1][name], gradient), name


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_output_and_gradients_are_those_of_the_formula(kind, bias):
    settings = KINDS[kind]
    rng = np.random.default_rng(0)
    layer = Linear(6, 5, bias)
    holder = paddle.nn.LayerDict({"map": layer})
    holder.random = None
    layer.weight.set_value(rng.normal(size=(6, 5)).astype(np.float32))
    if bias:
        layer.bias.set_value(rng.normal(size=5).astype(np.float32))
    with_adapter(holder, settings)
    (_, adapter), *_ = of_name(linear_maps(holder), "a")
    x_TI = paddle.to_tensor(rng.normal(size=(3, 6)).astype(np.float32), stop_gradient=False)
    coefficients = paddle.to_tensor(rng.normal(size=(3, 5)).astype(np.float32))
    learning = [x_TI, adapter.down, adapter.up, *([adapter.magnitude] if settings.dora else [])]

    def formula() -> paddle.Tensor:
        weight_IO = layer.weight + settings.scale * adapter.down @ adapter.up
        if settings.dora:
            weight_IO = weight_IO * (adapter.magnitude / weight_IO.square().sum(0).sqrt().detach())
        return x_TI @ weight_IO + (layer.bias if bias else 0.0)

    results = []
    for out in (layer(x_TI), formula()):
        (out * coefficients).sum().backward()
        results.append([out.numpy(), *(one.grad.numpy().copy() for one in learning)])
        for one in learning:
            one.clear_gradient(False)
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert settings.scale == pytest.approx({"lora": 2.0, "rslora": 1.5, "dora": 2.0}[kind])


def test_dropout_follows_seed_step_and_sample_and_is_off_in_evaluation():
    model, batch = built("qwen2_5_vl")
    assert model.random is None
    with_adapter(model, LoRASettings(rank=4, alpha=8.0, dropout=0.25))

    def loss(**keys: Any) -> float:
        model.random.start(**{"seed": 1, "step": 1, "samples": np.arange(2), **keys})
        return float(model.loss(batch)[0])

    without = loss()
    model.train()
    first = loss()
    assert first != without and loss() == first
    assert len({first, loss(seed=2), loss(step=2), loss(samples=np.arange(5, 7))}) == 4
    model.random.start(seed=1, step=1, samples=np.arange(2))
    keep = model.random.keep(1 << 20, (400, 300), 0.25)
    assert set(np.unique(keep)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (keep == 0).mean() == pytest.approx(0.25, abs=0.005)
    other = model.random.keep((1 << 20) + 1, (400, 300), 0.25)
    assert np.corrcoef(keep.ravel(), other.ravel())[0, 1] == pytest.approx(0.0, abs=0.02)


def test_a_frozen_block_is_not_recomputed():
    calls = []

    class Block(Linear):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            calls.append(x)
            return super().forward(x)

    block = Block(4, 4, False)
    block.weight.stop_gradient = True
    out = recompute(block, paddle.ones([2, 4]))
    assert out.stop_gradient and len(calls) == 1
    block.weight.stop_gradient = False
    recompute(block, paddle.ones([2, 4])).sum().backward()
    assert len(calls) == 3 and block.weight.grad is not None
