"""The running Ascend device: Paddle's own interface, and the versions that a report of a run needs.

Random state is that of the device's generator and of the host's (operators of the black list draw there); see
PaddleRuntime.
"""

from __future__ import annotations

from typing import Any

from mix_core.plugin_api import PaddleRuntime, installed_version, version_in_file
from mix_device_npu import toolchain
from mix_device_npu.checks import DRIVER_FILE, PADDLE_PLUGIN


class AscendRuntime(PaddleRuntime):
    """The index-th visible card."""

    def __init__(self, index: int) -> None:
        super().__init__("npu", index)

    def properties(self) -> dict[str, Any]:
        """What Paddle knows of the card, with the driver, CANN and library versions (None: not found)."""
        toolkit = toolchain.find_toolkit()
        return super().properties() | {
            "driver": version_in_file(DRIVER_FILE, r"(?m)^Version=(\S+)"),
            "cann": toolchain.toolkit_version(toolkit) if toolkit else None,
            "paddle_custom_npu": installed_version(PADDLE_PLUGIN),
        }
