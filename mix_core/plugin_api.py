"""The only module of mix-core that a device plugin imports.

Everything here is covered by the plugin API version: a plugin declares `MIX_PLUGIN_API = (1, 0)`; another
major is refused, a newer minor warns.
"""

from __future__ import annotations

from mix_core.device.conformance_file import read_conformance
from mix_core.device.hookspec import MIX_PLUGIN_API, hookimpl
from mix_core.device.paddle_runtime import PaddleRuntime
from mix_core.device.probing import device_files, installed_version, version_in_file, visible_count
from mix_core.device.profile import Capability, Collective, DeviceProfile, Figure, VersionRange
from mix_core.device.runtime import (
    DeviceRuntime,
    RandomState,
    pack_generator_state,
    unpack_generator_state,
)
from mix_core.device.values import (
    AllocatorPolicy,
    Check,
    Decision,
    Kernel,
    KernelRequest,
    NoKernel,
    Probe,
    Workload,
)
from mix_core.errors import BadInputError, DeviceError

__all__ = [
    "MIX_PLUGIN_API",
    "AllocatorPolicy",
    "BadInputError",
    "Capability",
    "Check",
    "Collective",
    "Decision",
    "DeviceError",
    "DeviceProfile",
    "DeviceRuntime",
    "Figure",
    "Kernel",
    "KernelRequest",
    "NoKernel",
    "PaddleRuntime",
    "Probe",
    "RandomState",
    "VersionRange",
    "Workload",
    "device_files",
    "hookimpl",
    "installed_version",
    "pack_generator_state",
    "read_conformance",
    "unpack_generator_state",
    "version_in_file",
    "visible_count",
]
