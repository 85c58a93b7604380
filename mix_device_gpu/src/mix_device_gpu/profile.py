"""What is known of NVIDIA GPUs under PaddlePaddle, each figure with its source.

Peak flop/s, memory size and bandwidths are absent: they differ by model, and no hook may ask the driver.
"""

from __future__ import annotations

from mix_core.plugin_api import Capability, Collective, DeviceProfile, VersionRange

EXAMPLE = "PaddleMIX's Qwen2.5-VL example"
CUDA_RELEASES = "NVIDIA's CUDA release notes, minor version compatibility"

PROFILE = DeviceProfile(
    name="gpu",
    device_type="gpu",
    custom_device=False,
    vendor="NVIDIA",
    priority=100,
    dtypes={
        # bfloat16 from compute capability 8.0 on (doctor tells the card's)
        "default": ("float32", "float64", "float16", "bfloat16"),
        "attention": ("float16", "bfloat16"),  # Paddle's flash attention
    },
    capabilities=frozenset(Capability),
    collective=Collective("nccl"),
    launcher_variable="FLAGS_selected_gpus",
    visible_devices_variable="CUDA_VISIBLE_DEVICES",
    paddle_versions=VersionRange(">=3.0", f"{EXAMPLE}: paddlepaddle-gpu 3.0.0b2 or newer"),
    driver_versions=VersionRange(">=450.80.02", f"{CUDA_RELEASES}: CUDA 11; newer ones need more"),
    sdk_versions=VersionRange(">=11.0", "the indexes that Paddle publishes wheels in: cu118, cu126"),
    not_run_on_hardware=(
        "settings",
        "attention (scaled_dot_product_attention)",
        "attention_packed (flash_attn_unpadded)",
        "rms_norm (fused_rms_norm)",
        "rotary (fused_rotary_position_embedding)",
        "swiglu",
        "adamw (fused_adam_)",
        "linear_cross_entropy",
        "collectives",
        "random state and memory statistics",
    ),
)
