"""What is known of Kunlun P800 cards (XPU3) under PaddlePaddle, each figure with its source.

Peak flop/s and bandwidths are absent: none was found in a source that could be named.
"""

from __future__ import annotations

from mix_core.plugin_api import Capability, Collective, DeviceProfile, Figure, VersionRange

GUIDE = "PaddleMIX's Kunlun guide"
TABLE = "Paddle's xpu3_op_list.cc"
SMI = "xpu-smi of a P800 OAM, printed in PaddleFleet's Kunlun guide"

PROFILE = DeviceProfile(
    name="xpu",
    device_type="xpu",
    custom_device=False,
    vendor="Baidu Kunlun",
    priority=100,
    # By TABLE. XPU2 (R200) computes no bfloat16; Paddle's current wheels are for XPU3 alone.
    dtypes={
        "default": ("float32", "float16", "bfloat16"),
        "convolution": ("float32", "float16"),
        "group_norm": ("float32",),
        "scatter": ("float32",),
        "interpolation": ("float32", "float16"),
        # the table has float32 too, but the kernel multiplies in TF32
        "attention": ("float16", "bfloat16"),
    },
    capabilities=frozenset(
        {Capability.COLLECTIVES, Capability.MEMORY_STATS, Capability.PINNED_MEMORY, Capability.STREAMS}
        | {Capability.INT8_WEIGHTS}  # by TABLE: cast and slice take int8
    ),
    # paddlenlp all-reduces float32 where others take int64, gathers by all_gather, never all-gathers bool
    collective=Collective("bkcl", dtypes_refused=frozenset({"int64", "bool"}), gather_by_all_gather=True),
    launcher_variable="FLAGS_selected_xpus",
    visible_devices_variable="XPU_VISIBLE_DEVICES",
    min_loader_workers=1,  # paddleformers' training arguments: loading in the training thread contends
    slices_alias=False,  # the guide turns stride kernels off
    memory_bytes=Figure(98304 << 20, SMI),
    paddle_versions=VersionRange(">=3.0", f"{GUIDE}: nightly paddlepaddle-xpu"),
    driver_versions=VersionRange(">=5.0.21.14", GUIDE),
    sdk_versions=VersionRange(">=5.0.21", SMI),
    not_run_on_hardware=(
        "settings",
        "attention (scaled_dot_product_attention)",
        "rms_norm (xpu_rms_norm)",
        "rotary (fused_rotary_position_embedding)",
        "swiglu",
        "linear_cross_entropy",
        "collectives",
        "random state and memory statistics",
    ),
)
