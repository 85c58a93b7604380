"""What is known of NVIDIA GPUs under PaddlePaddle, each figure with its source.

Peak flop/s, memory size and bandwidths are absent: they differ by model, and no hook may ask the driver.
"""

from __future__ import annotations

from mix_core.plugin_api import Capability, Collective, DeviceProfile, VersionRange

PROFILE = DeviceProfile(
    name="gpu",
    device_type="gpu",
    vendor="NVIDIA",
    priority=100,
    dtypes={"default": ("float32", "float64", "float16", "bfloat16")},  # bf16 from compute capability 8.0 on
    capabilities=frozenset(Capability),
    collective=Collective("nccl"),
    launcher_variable="FLAGS_selected_gpus",
    visible_devices_variable="CUDA_VISIBLE_DEVICES",
    paddle_versions=VersionRange(
        ">=3.0", "PaddleMIX's Qwen2.5-VL example: paddlepaddle-gpu 3.0.0b2 or newer"
    ),
)
