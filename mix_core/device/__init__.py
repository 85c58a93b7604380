"""The device layer: find device plugins, choose one, apply its settings, and serve its kernels and runtime.

Importing this package imports no paddle and no plugin.
"""

from __future__ import annotations

from mix_core.device.activation import Activation, activate, active, ensure_active
from mix_core.device.profile import Capability, DeviceProfile
from mix_core.device.runtime import DeviceRuntime
from mix_core.device.values import Kernel, KernelRequest, Workload

__all__ = [
    "Activation",
    "Capability",
    "DeviceProfile",
    "DeviceRuntime",
    "Kernel",
    "KernelRequest",
    "Workload",
    "activate",
    "active",
    "ensure_active",
]
