"""Build hook of the mix-core wheel: puts the C++ sources into it as mix_core/csrc.

A static mapping in pyproject.toml would also copy them into editable installs, where the copy grows stale
beside the checkout's own.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SourcesHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["csrc"] = "mix_core/csrc"
