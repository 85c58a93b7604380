"""Provides the device acme a second time."""

from __future__ import annotations

from mix_core.plugin_api import DeviceProfile, DeviceRuntime, PaddleRuntime, Probe, hookimpl

MIX_PLUGIN_API = (1, 0)


@hookimpl
def mix_probe() -> Probe:
    return Probe("usable", 1, "always here")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("acme", "cpu", "Test", 90, {"default": ("float32",)})


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("cpu", index)
