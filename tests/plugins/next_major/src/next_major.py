"""Written for plugin API 2.0."""

from __future__ import annotations

from mix_core.plugin_api import DeviceProfile, DeviceRuntime, PaddleRuntime, Probe, hookimpl

MIX_PLUGIN_API = (2, 0)


@hookimpl
def mix_probe() -> Probe:
    return Probe("usable", 1, "always here")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("nextmajor", "cpu", "Test", 50, {"default": ("float32",)})


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("cpu", index)
