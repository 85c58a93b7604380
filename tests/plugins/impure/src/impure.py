"""Its probe imports paddle."""

from __future__ import annotations

from mix_core.plugin_api import DeviceProfile, DeviceRuntime, PaddleRuntime, Probe, hookimpl

MIX_PLUGIN_API = (1, 0)


@hookimpl
def mix_probe() -> Probe:
    import paddle

    return Probe("usable", 1, f"paddle {paddle.__version__}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile("impure", "cpu", "Test", 50, {"default": ("float32",)})


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    return PaddleRuntime("cpu", index)
