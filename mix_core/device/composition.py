"""The manager of the chosen device and the settings that its plugins decide on together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from mix_core.device import defaults, discovery, settings
from mix_core.device.choice import Candidate
from mix_core.device.discovery import describe
from mix_core.device.values import AllocatorPolicy, Decision, Workload
from mix_core.errors import BadInputError, DeviceError


@dataclass(frozen=True)
class Composition:
    """The hooks of one device, lowest first (core, its plugin, overlays), and the settings they give."""

    manager: pluggy.PluginManager = field(repr=False)
    rows: list[settings.SettingRow]
    warnings: tuple[str, ...] = ()


def compose(
    candidate: Candidate,
    workload: Workload,
    user: Mapping[str, str],
    *,
    beneath: Candidate | None = None,
    above: settings.Layer | None = None,
) -> Composition:
    """Register the plugins of a device and compose its settings with the user's environment.

    `beneath` is the host's plugin under a simulated device: its variables come lowest, the device's win.
    `above` holds what loads a simulated device.
    Raises DeviceError when a hook fails or returns something else than the specification says, and
    BadInputError where a hook refuses a value that the user has set.
    """
    entry = candidate.plugin.entry
    overlays, warnings = serving_overlays(entry.name, user)
    stack = [(defaults.SOURCE, defaults), (f"plugin {entry.name}", candidate.plugin.module)]
    stack += [(f"overlay {overlay.entry.name}", overlay.module) for overlay in overlays]
    manager = discovery.new_manager()
    for source, module in stack:
        manager.register(module, name=source)
    layers = [ask_layer(source, module, workload) for source, module in stack]
    if beneath is not None:
        host = ask_layer(f"plugin {beneath.plugin.entry.name}", beneath.plugin.module, workload)
        layers.insert(0, settings.Layer(host.source, host.environment))
    if above is not None:
        layers.append(above)
    own = [f"{entry.label}: {text}" for text in candidate.plugin.warnings]
    return Composition(manager, settings.compose(layers, user), (*own, *warnings))


def operator_support(candidate: Candidate) -> Mapping[str, Any] | None:
    """The chip's table of operators, or None where its plugin has none. Raises DeviceError when broken."""
    manager = discovery.new_manager()
    manager.register(candidate.plugin.module)
    try:
        support = manager.hook.mix_operator_support()
    except Exception as error:
        raise DeviceError(
            f"mix_operator_support of {candidate.plugin.entry.label} failed: {describe(error)}"
        ) from error
    if support is not None and not isinstance(support, Mapping):
        raise DeviceError(
            f"mix_operator_support of {candidate.plugin.entry.label} returned {support!r}, not a mapping"
        )
    return support


def serving_overlays(device: str, environ: Mapping[str, str]) -> tuple[list[discovery.Plugin], list[str]]:
    """The overlays that declare this device, by name, and a line for each that cannot be imported.

    Raises DeviceError for an overlay that serves the device and is broken: its kernels would go missing.
    """
    serving, warnings = [], []
    for entry in discovery.find_entries(discovery.OVERLAYS_GROUP, environ):
        plugin = discovery.load(entry, overlay=True)
        served = getattr(plugin.module, "MIX_OVERLAY_DEVICES", None)
        if plugin.problem and (not isinstance(served, tuple) or device in served):
            text = f"the overlay {entry.label} is broken: {plugin.problem}"
            if served is None:
                warnings.append(f"{text}; going on without it")
                continue
            raise DeviceError(f"{text}; repair or uninstall it, or leave it out of {discovery.LOAD_VARIABLE}")
        if not plugin.problem and device in plugin.module.MIX_OVERLAY_DEVICES:
            serving.append(plugin)
            warnings += [f"{entry.label}: {text}" for text in plugin.warnings]
    return serving, warnings


def ask_layer(source: str, module: Any, workload: Workload) -> settings.Layer:
    """What one plugin alone decides for this workload."""
    manager = discovery.new_manager()
    manager.register(module, name=source)

    def ask(hook: str) -> Any:
        try:
            answer = getattr(manager.hook, hook)(workload=workload)
        except BadInputError:  # a value of the user's that the device refuses
            raise
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
