"""What `dtype` and `fp16_opt_level` ask for, and how the loss scale moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mix_core.config import RunConfig
from mix_core.errors import ConfigError
from mix_core.training.loss_scale import GROWTH_INTERVAL, HIGHEST, LossScale
from mix_core.training.precision import Precision


def activation(*dtypes: str, products: tuple[str, ...] = (), kernels: bool = True) -> Any:
    """A device that computes in these, and multiplies float32 tensors in `products`."""
    classes = {"default": dtypes, "products": products}
    profile = SimpleNamespace(
        dtypes=classes, supports_dtype=lambda dtype, kind="default": dtype in classes[kind]
    )
    return SimpleNamespace(
        name="acme", profile=profile, kernel=lambda op, request: "kernel" if kernels else None
    )


def of(config: RunConfig, device: Any) -> Precision:
    return Precision.of(config.dtype, config.fp16_opt_level, device, config.scale_loss)


def precision(**keys: Any) -> Precision:
    return of(RunConfig(**keys), activation("float32", "bfloat16", "float16"))


def test_levels():
    assert precision() == Precision("float32", "O0")
    assert precision(fp16_opt_level="O2").level == "O0", "a level says nothing without a 16-bit dtype"
    assert precision(dtype="bfloat16").parameter_dtype == "float32"
    assert precision(dtype="bfloat16", fp16_opt_level="O2").parameter_dtype == "bfloat16"


def test_only_float16_scales_its_loss():
    assert precision().loss_scale() is None and precision(dtype="bfloat16").loss_scale() is None
    assert precision(dtype="float16", scale_loss=128.0).loss_scale() == LossScale(128.0)


def test_what_a_device_does_not_compute_in_is_refused():
    with pytest.raises(ConfigError, match="device acme computes in float32, float16; give --dtype float32"):
        of(RunConfig(dtype="bfloat16"), activation("float32", "float16"))
    with pytest.raises(ConfigError, match="O0 computes in float32, but dtype is float16; give O1 or O2"):
        precision(dtype="float16", fp16_opt_level="O0")


def test_a_device_may_have_bfloat16_inside_of_products_alone():
    device = activation("float32", products=("bfloat16",))
    found = of(RunConfig(dtype="bfloat16"), device)
    assert found == Precision("bfloat16", "O1", inside=True) and found.parameter_dtype == "float32"
    with pytest.raises(
        ConfigError, match="O2 keeps parameters in bfloat16, and device acme has bfloat16 inside"
    ):
        of(RunConfig(dtype="bfloat16", fp16_opt_level="O2"), device)
    with pytest.raises(ConfigError, match="device acme computes in float32; give --dtype float32"):
        of(RunConfig(dtype="bfloat16"), activation("float32", products=("bfloat16",), kernels=False))


def test_the_scale_falls_at_once_and_rises_slowly():
    scale = LossScale(8.0)
    assert scale.overflowed() and scale.scale == 4.0
    for _ in range(GROWTH_INTERVAL - 1):
        scale.went_well()
    assert scale.scale == 4.0
    scale.went_well()
    assert (scale.scale, scale.good_steps) == (8.0, 0)
    scale.went_well()
    assert scale.overflowed() and (scale.scale, scale.good_steps) == (4.0, 0)


def test_the_scale_has_ends():
    assert not LossScale(1.0).overflowed()
    low = LossScale(1.5)
    assert low.overflowed() and low.scale == 1.0 and not low.overflowed()
    high = LossScale(HIGHEST, good_steps=GROWTH_INTERVAL - 1)
    high.went_well()
    assert high.scale == HIGHEST


@pytest.mark.parametrize("labels", [0, 1, 2, 3, 1000, 1024, 1025])
def test_the_factor_is_the_power_of_two_that_makes_a_sum_a_mean(labels):
    divisor = 4096.0 / LossScale(4096.0).factor(labels)
    assert np.log2(divisor).is_integer() and labels <= divisor < max(2 * labels, 2)


def test_the_scale_goes_through_a_checkpoint():
    scale, again = LossScale(64.0, good_steps=7), LossScale(2.0)
    again.load(scale.state())
    assert again == scale
