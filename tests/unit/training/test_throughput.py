"""Rates, shares and utilisation of steps whose work and times are known."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from mix_core.config import RunConfig
from mix_core.plugin_api import DeviceProfile, Figure
from mix_core.training.throughput import (
    CHECKPOINT,
    COMMUNICATION,
    DATA,
    Counted,
    Counter,
    StepClock,
    Throughput,
    in_words,
    parts_that_learn,
    peak_of,
)


def step(**values):
    known = dict(tokens=80, step_ms=500.0, data_ms=50.0, communication_ms=100.0)
    return SimpleNamespace(**{**known, "counted": Counted(4, 100, 10**12), **values})


def test_a_step_and_the_sum_of_steps():
    speed = Throughput(peak_flops=10e12)
    first = speed.add(step())
    assert first["samples_per_s"] == 8 and first["padding"] == pytest.approx(0.2)
    assert first["tflops"] == pytest.approx(2.0) and first["mfu"] == pytest.approx(0.2)
    assert first["compute_ms"] == pytest.approx(350.0) and first["checkpoint_ms"] == 0.0
    speed.add_between({CHECKPOINT: 1.0, "evaluation": 0.25})
    second = speed.add(step(tokens=100, step_ms=250.0, data_ms=0.0, communication_ms=0.0))
    assert second["checkpoint_ms"] == 1000.0 and second["padding"] == 0.0
    total = speed.summary()
    assert total["tokens_per_s"] == pytest.approx(180 / 0.75)
    assert total["mfu"] == pytest.approx(2e12 / 0.75 / 10e12)
    assert total["seconds"] == pytest.approx(
        {"compute": 0.6, "communication": 0.1, "data": 0.05, "checkpoint": 1.0, "evaluation": 0.25}
    )
    assert sum(total["shares"].values()) == pytest.approx(1.0)
    words = in_words(total)
    assert "240 tokens/s, 10.7 samples/s, 2.67 Tflop/s, mfu 26.7 %, padding 10 %" in words
    assert words.endswith("compute 30 %, communication 5 %, data 2 %, checkpoint 50 %, evaluation 12 %")


def test_without_a_peak_or_an_outline_there_is_no_utilisation():
    assert "mfu" not in Throughput(None).add(step())
    values = Throughput(1e12).add(step(counted=Counter(None).count([{"input_ids": np.zeros((2, 5))}])))
    assert "tflops" not in values and values["samples_per_s"] == 4
    assert Throughput(1e12).summary() == {}


def test_counts_survive_a_sum_over_many_ranks():
    counted = Counted(samples=3, places=700, flops=(1 << 61) + 12345)
    digits = counted.digits()
    assert max(digits) * 16384 < 2**31
    assert Counted.summed([16384 * one for one in digits]) == Counted(
        3 * 16384, 700 * 16384, counted.flops * 16384
    )


def test_samples_of_packed_and_padded_passes():
    packed = {"input_ids": np.zeros((1, 32)), "cu_seqlens": np.array([0, 4, 20, 30])}
    assert Counter(None).count([packed, {"input_ids": np.zeros((3, 8))}]) == Counted(6, 56, 0)


def test_the_clock_adds_up_by_kind_and_waits_for_the_device():
    waits = []
    clock = StepClock(lambda: waits.append(1))
    for _ in range(2):
        with clock.of(DATA):
            time.sleep(0.01)
    assert clock.spent(DATA) >= 0.02 and waits == []
    with clock.of(COMMUNICATION):
        pass
    assert len(waits) == 2  # before, for what is queued, and after
    assert clock.take()[DATA] >= 0.02 and clock.spent(DATA) == 0.0


def test_parts_that_learn_by_published_names():
    tower, merger, text = "visual.blocks.0.norm1.weight", "visual.merger.mlp.0.bias", "model.norm.weight"
    assert parts_that_learn([tower, merger, text]) == (dict(tower=True, projector=True, decoder=True), False)
    assert parts_that_learn([text]) == (dict(tower=False, projector=False, decoder=True), False)
    adapter = "model.layers.0.self_attn.q_proj.adapters.0.down"
    assert parts_that_learn([adapter, merger]) == (dict(tower=False, projector=True, decoder=False), True)


def test_the_peak_is_the_configurations_else_the_profiles():
    dtypes = {"default": ("float32",)}
    stated = DeviceProfile(
        "chip", "chip", "V", 1, dtypes, peak_flops={"bfloat16": Figure(3e14, "data sheet")}
    )
    assert peak_of(RunConfig(), stated, "bfloat16", 2) == 6e14
    assert peak_of(RunConfig(), stated, "float32", 2) is None
    assert peak_of(RunConfig(peak_tflops=2.0), stated, "bfloat16", 4) == 8e12
