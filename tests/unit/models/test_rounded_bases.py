"""Adapters over matrices in 8 bits: what they compute and learn, what is written and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError, WeightsError
from mix_core.models.common.adapter_files import TENSORS, read_adapter
from mix_core.models.common.adapters import AdapterSet, fingerprint
from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, of_name
from mix_core.models.common.tensor_files import read_header
from mix_core.models.registry import families, get_family
from mix_core.ops.matmul_int8 import Int8Matrix, quantized
from mix_core.training.lora import RunAdapter
from mix_core.training.optimizer import AdamW

SETTINGS = LoRASettings(rank=4, alpha=8.0)


def adapted(name: str = "qwen2_5_vl", settings: LoRASettings = SETTINGS) -> tuple[Any, AdapterSet]:
    """A frozen model with adapters that hold numbers, on all maps of its decoder."""
    family = families()[name]
    model = family.build(family.config_from_dict(family.tiny().config))
    family.init_weights(model, 0)
    adapters = AdapterSet(model, family)
    chosen = [one for one in adapters.maps if one.in_decoder is not None]
    for parameter in model.parameters():
        parameter.stop_gradient = True
    add_adapter(model, chosen, "default", settings)
    init_adapter(chosen, "default", 0)
    rng = np.random.default_rng(0)
    for _, adapter in of_name(chosen, "default"):
        adapter.up.set_value(rng.normal(0, 0.05, adapter.up.shape).astype(np.float32))
    return model, adapters


def step(model: Any, batch: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of what learns."""
    model.train()
    loss, _ = model.loss(batch)
    loss.backward()
    found = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return float(loss), found


@pytest.mark.parametrize("name", sorted(name for name, family in families().items() if family.tiny))
def test_a_step_is_that_over_the_rounded_numbers(name) -> None:
    batch = families()[name].tiny().batch
    model, adapters = adapted(name)
    over_floats = step(model, batch)
    for one in adapters.maps:
        if one.layer.adapters is not None:
            steps_OI, scale_O = quantized(one.layer.weight.numpy().T)
            one.layer.weight.set_value(np.ascontiguousarray((steps_OI * scale_O[:, None]).T))
    expected_loss, expected = step(model, batch)
    model, adapters = adapted(name)
    before = sum(int(p.size) for p in model.parameters())
    numbers = adapters.round_bases()
    assert before - sum(int(p.size) for p in model.parameters()) == numbers > 0
    loss, gradients = step(model, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert loss == pytest.approx(over_floats[0], rel=2e-3)
    assert gradients.keys() == expected.keys() and len(gradients) >= 2 * len(adapters.maps[:1])
    assert all(".adapters." in parameter for parameter in gradients)
    for parameter, gradient in gradients.items():
        apart = np.linalg.norm(gradient - expected[parameter])
        assert apart <= 2e-5 * max(np.linalg.norm(expected[parameter]), 1e-6), parameter


def learned(seed: int) -> dict[str, np.ndarray]:
    """What adapters over a rounded base hold after three updates with dropout."""
    model, adapters = adapted(settings=replace(SETTINGS, dropout=0.1))
    adapters.round_bases()
    optimizer = AdamW(model)
    batch = get_family("qwen2_5_vl").tiny().batch
    model.train()
    for number in range(3):
        model.random.start(seed=seed, step=number, samples=np.arange(len(batch["input_ids"])))
        model.loss(batch)[0].backward()
        optimizer.step(1e-3)
        optimizer.clear_grad()
    return {name: parameter.numpy() for name, parameter in optimizer.named_parameters()}


def test_the_same_seed_learns_the_same_bits() -> None:
    first, again, other = (learned(seed) for seed in (1, 1, 2))
    assert first and all(".adapters." in name for name in first)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first), "the seed draws dropout"


def test_only_matrices_of_the_language_model_under_adapters_are_rounded() -> None:
    model, adapters = adapted()
    tower = [one for one in adapters.maps if one.path == "visual.blocks.0.attn.qkv"]
    add_adapter(model, tower, "default", SETTINGS)
    adapters.round_bases()
    for one in adapters.maps:
        in_8_bits = isinstance(one.layer.base, Int8Matrix)
        assert in_8_bits == (one.in_decoder is not None), one.path
        if in_8_bits:
            assert one.layer.base.steps_OI.dtype == paddle.int8
            assert f"{one.name}.weight" not in adapters.slots


def test_what_is_written_is_for_the_float_model(tmp_path) -> None:
    model, adapters = adapted()
    made_for = fingerprint([one for one in adapters.maps if one.in_decoder is not None])
    adapters.round_bases()
    adapters.write(tmp_path, "default", base="m", fingerprint=made_for, rounded="weight_only_int8")
    stored = read_adapter(tmp_path)
    assert stored.rounded == "weight_only_int8" and stored.fingerprint == made_for
    assert {tensor.dtype for tensor in read_header(tmp_path / TENSORS).values()} == {"F32"}
    family = get_family("qwen2_5_vl")
    plain = family.build(model.config)
    family.init_weights(plain, 0)
    AdapterSet(plain, family).add("default", stored)
    for (_, ours), (_, theirs) in zip(
        of_name(adapters.maps, "default"), of_name(AdapterSet(plain, family).maps, "default"), strict=True
    ):
        assert np.array_equal(ours.down.numpy(), theirs.down.numpy())
        assert np.array_equal(ours.up.numpy(), theirs.up.numpy())
    batch = family.tiny().batch
    assert step(model, batch)[0] == pytest.approx(step(plain, batch)[0], rel=2e-3)


def test_a_matrix_that_is_not_finite_is_refused() -> None:
    _, adapters = adapted()
    first = next(one for one in adapters.maps if one.in_decoder is not None)
    values = first.layer.weight.numpy().copy()
    values[1, 2] = np.nan
    first.layer.weight.set_value(values)
    with pytest.raises(WeightsError, match=rf"{first.path}.weight cannot be rounded to int8: row 2 holds"):
        adapters.round_bases()


def run_adapter(adapters: AdapterSet) -> RunAdapter:
    """As a run has it, without its files."""
    run = object.__new__(RunAdapter)
    run.config = load_config(arguments={"lora": "true", "weight_quantize_algo": "weight_only_int8"})
    run.adapters, run.maps = adapters, adapters.maps
    return run


def test_a_device_that_cannot_and_an_adapter_that_cannot_are_refused() -> None:
    from mix_core.device import cpu

    able = cpu.mix_profile()
    unable = replace(able, capabilities=frozenset())
    says = "weight_quantize_algo is weight_only_int8, but "
    with pytest.raises(ConfigError, match=f"{says}device chip cannot keep weights in 8 bits in training"):
        run_adapter(adapted()[1]).round_bases(SimpleNamespace(profile=unable, name="chip"))
    dora = LoRASettings(rank=4, alpha=8.0, dora=True)
    with pytest.raises(ConfigError, match=f"{says}the adapter to start from is of DoRA"):
        run_adapter(adapted(settings=dora)[1]).round_bases(SimpleNamespace(profile=able, name="cpu"))
    assert run_adapter(adapted()[1]).round_bases(SimpleNamespace(profile=able, name="cpu")) > 0
