"""What is known of Kunlun P800 cards under PaddlePaddle, each figure with its source.

Peak flop/s, memory size and bandwidths are absent: none was found in a source that could be named.
"""

from __future__ import annotations

from mix_core.plugin_api import Capability, Collective, DeviceProfile, VersionRange

GUIDE = "PaddleMIX's Kunlun guide"

PROFILE = DeviceProfile(
    name="xpu",
    device_type="xpu",
    vendor="Baidu Kunlun",
    priority=100,
    dtypes={"default": ("float32", "float16", "bfloat16")},  # Paddle: XPU3 has bf16, XPU2 fp16
    capabilities=frozenset(
        {Capability.COLLECTIVES, Capability.MEMORY_STATS, Capability.PINNED_MEMORY, Capability.STREAMS}
    ),
    # paddlenlp all-reduces float32, gathers by all_gather, and never all-gathers bool
    collective=Collective("bkcl", dtypes_refused=frozenset({"int64", "bool"}), gather_by_all_gather=True),
    launcher_variable="FLAGS_selected_xpus",
    visible_devices_variable="XPU_VISIBLE_DEVICES",
    min_loader_workers=1,  # paddleformers: loading in the training thread contends with the device
    slices_alias=False,
    paddle_versions=VersionRange(">=3.0", f"{GUIDE}: nightly paddlepaddle-xpu"),
    driver_versions=VersionRange(">=5.0.21.14", GUIDE),
)
