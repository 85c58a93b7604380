"""Profiles: sources are demanded, version ranges compare numbers, nonsense is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix_core.device import cpu, explanation
from mix_core.device.profile import Capability, DeviceProfile, Figure, VersionRange
from mix_core.device.values import KernelRequest, Probe
from mix_core.errors import BadInputError

VERSIONS = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@given(VERSIONS, VERSIONS)
def test_bounds_agree_with_numbers(left: list[int], right: list[int]):
    width = max(len(left), len(right))
    a, b = (tuple(numbers + [0] * (width - len(numbers))) for numbers in (left, right))
    have, limit = (".".join(map(str, numbers)) for numbers in (left, right))
    for sign, met in ((">=", a >= b), (">", a > b), ("<=", a <= b), ("<", a < b), ("==", a == b)):
        assert VersionRange(f"{sign}{limit}", "test").contains(have) is met


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ("3.3.1", True),
        ("3.3.0", False),
        ("3.4", False),
        ("3.3.1.post2", True),
        ("3.10.0", False),
        ("3.3.9rc1", True),
    ],
)
def test_a_range_of_two_bounds(version: str, inside: bool):
    assert VersionRange(">=3.3.1, <3.4", "test").contains(version) is inside


@pytest.mark.parametrize("bounds", ["", "3.3", "~=3.3", ">=a", ">=3,", "=>3"])
def test_other_bounds_are_refused(bounds: str):
    with pytest.raises(ValueError, match="not of the form"):
        VersionRange(bounds, "test")


def test_a_figure_needs_a_source():
    with pytest.raises(ValueError, match="no source"):
        Figure(1e12, "")


def test_a_profile_refuses_what_core_cannot_read():
    good = {"name": "acme", "device_type": "acme", "vendor": "ACME", "priority": 1}
    with pytest.raises(ValueError, match="no class 'default'"):
        DeviceProfile(**good, dtypes={"matmul": ("float32",)})
    with pytest.raises(ValueError, match="is no Capability"):
        DeviceProfile(**good, dtypes={"default": ("float32",)}, capabilities=frozenset({"teleport"}))


def test_dtypes_fall_back_to_the_default_class():
    profile = dataclasses.replace(
        cpu.mix_profile(), dtypes={"default": ("float32",), "linear": ("bfloat16",)}
    )
    assert profile.supports_dtype("bfloat16", "linear") and not profile.supports_dtype("bfloat16", "norm")
    assert profile.supports(Capability.MEMORY_STATS) and not profile.supports(Capability.STREAMS)


def test_probes_and_requests_are_checked_and_hashable():
    with pytest.raises(ValueError, match="none of absent"):
        Probe("maybe", 1, "who knows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        Probe("usable", -1, "who knows")
    assert KernelRequest("float32", causal=True) in {KernelRequest("float32", causal=True)}


def test_a_workload_that_is_neither_is_bad_input():
    with pytest.raises(BadInputError, match="neither understanding nor generation"):
        explanation.parse_workload("translation")
