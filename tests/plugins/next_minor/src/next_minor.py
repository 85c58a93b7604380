"""Written for plugin API 1.7, with a hook that 1.0 does not have."""

from __future__ import annotations

from mix_core.plugin_api import DeviceProfile, DeviceRuntime, PaddleRuntime, Probe, hookimpl

MIX_PLUGIN_API = (1, 7)


@hookimpl
def mix_probe() -> Probe:
    return Probe("usable", 1, "always here")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("nextminor", "cpu", "Test", 50, {"default": ("float32",)})


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("cpu", index)


@hookimpl
def mix_teleport(index: int) -> None:
    raise AssertionError("nobody may call this")
