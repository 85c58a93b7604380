"""The manager of the chosen device and the settings that its plugins decide on together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from mix_core.device import discovery, settings
from mix_core.device.choice import Candidate
from mix_core.device.discovery import describe
from mix_core.device.values import AllocatorPolicy, Decision, Workload
from mix_core.errors import DeviceError


@dataclass(frozen=True)
class Composition:
    """The hooks of one device, lowest first (core, its plugin, overlays), and the settings they give."""

    manager: pluggy.PluginManager = field(repr=False)
    rows: list[settings.SettingRow]
    warnings: tuple[str, ...] = ()


def compose(candidate: Candidate, workload: Workload, user: Mapping[str, str]) -> Composition:
    """Register the plugins of a device and compose its settings.

    Raises DeviceError when a hook fails or returns something else than the specification says.
    """
    manager = discovery.new_manager()
    entry = candidate.plugin.entry
    manager.register(candidate.plugin.module, name=f"plugin {entry.name}")
    warnings = [f"{entry.label}: {text}" for text in candidate.plugin.warnings]
    layers = [_layer(manager, name, plugin, workload) for name, plugin in manager.list_name_plugin()]
    return Composition(manager, settings.compose(layers, user), tuple(warnings))


def _layer(manager: pluggy.PluginManager, source: str, plugin: Any, workload: Workload) -> settings.Layer:
    """What one plugin alone decides."""
    others = [other for other in manager.get_plugins() if other is not plugin]

    def ask(hook: str) -> Any:
        try:
            answer = manager.subset_hook_caller(hook, others)(workload=workload)
        except Exception as error:
            raise DeviceError(f"{hook} of {source} failed: {describe(error)}") from error
        return (answer[0] if answer else None) if isinstance(answer, list) else answer

    return settings.Layer(
        source=source,
        environment=_mapping(ask("mix_environment"), Decision, f"mix_environment of {source}"),
        allocator=_optional(ask("mix_allocator"), AllocatorPolicy, f"mix_allocator of {source}"),
        stride_kernel=_optional(ask("mix_stride_kernel"), Decision, f"mix_stride_kernel of {source}"),
        blacklisted_ops=_mapping(ask("mix_blacklisted_ops"), str, f"mix_blacklisted_ops of {source}"),
    )


def _optional(value: Any, kind: type, what: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise DeviceError(f"{what} returned {value!r}, not a {kind.__name__} or None")
    return value


def _mapping(value: Any, kind: type, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(item, kind) for item in value.values()):
        raise DeviceError(f"{what} returned {value!r}, not a mapping of names to {kind.__name__}")
    return value
