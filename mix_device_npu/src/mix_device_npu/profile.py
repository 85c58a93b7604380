"""What is known of Ascend 910B cards under PaddlePaddle, each figure with its source.

Peak flop/s, memory size and bandwidths are absent: none was found in a source that could be named.
"""

from __future__ import annotations

from mix_core.plugin_api import Capability, Collective, DeviceProfile, VersionRange

GUIDE = "PaddleMIX's Ascend guide, release 2.1"
CUSTOM_DEVICE = "PaddleCustomDevice backends/npu, October 2024"

PROFILE = DeviceProfile(
    name="npu",
    device_type="npu",
    vendor="Huawei Ascend",
    priority=100,
    dtypes={
        "default": ("float32", "float16", "bfloat16"),
        # PaddleCustomDevice: no bf16 kernels for conv3d and group_norm; flash attention takes half types only
        "convolution": ("float32", "float16"),
        "group_norm": ("float32", "float16"),
        "attention": ("float16", "bfloat16"),
    },
    capabilities=frozenset(
        {Capability.COLLECTIVES, Capability.EVENTS, Capability.MEMORY_STATS, Capability.STREAMS}
    ),
    # paddlenlp all-reduces float32 where other devices take int64
    collective=Collective("xccl", dtypes_refused=frozenset({"int64"})),
    launcher_variable="FLAGS_selected_npus",
    visible_devices_variable="ASCEND_RT_VISIBLE_DEVICES",
    slices_alias=False,
    paddle_versions=VersionRange(
        ">=3.0", f"{GUIDE}: nightly paddlepaddle with paddle-custom-npu of the same night"
    ),
    driver_versions=VersionRange(">=23.0.3", GUIDE),
    sdk_versions=VersionRange(">=8.0", f"{CUSTOM_DEVICE}: CANN 8.0.RC1"),
    not_run_on_hardware=(
        "settings",
        "attention and attention_packed (flash_attention_npu)",
        "rms_norm (rms_norm_npu)",
        "rotary (fused_rope)",
        "swiglu",
        "linear_cross_entropy",
        "collectives",
        "random state and memory statistics",
    ),
)
