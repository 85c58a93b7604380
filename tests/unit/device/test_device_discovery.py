"""Finding and loading plugins: metadata first, each on its own, broken ones reported."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from mix_core.device import discovery

Use = Callable[..., None]


def loaded(name: str, *, overlay: bool = False) -> discovery.Plugin:
    group = discovery.OVERLAYS_GROUP if overlay else discovery.DEVICES_GROUP
    entry = next(entry for entry in discovery.find_entries(group, {}) if entry.name == name)
    return discovery.load(entry, overlay=overlay)


def test_metadata_is_read_without_importing_anything(use_plugins: Use):
    use_plugins("acme", "rusty", "crasher")
    entries = {entry.name: entry for entry in discovery.find_entries(environ={})}
    assert {"acme", "cpu", "crasher", "rusty"} <= set(entries)
    assert entries["acme"].label == "acme (mix-device-acme 0.1.0)"
    assert entries["acme"].source == "mix_device_acme.plugin"
    assert not {"mix_device_acme", "rusty", "crasher"} & set(sys.modules)


def test_the_cpu_is_a_plugin_like_any_other():
    plugin = loaded("cpu")
    assert (plugin.problem, plugin.api, plugin.entry.source) == (None, (1, 0), "mix_core.device.cpu")


def test_a_good_plugin_loads(use_plugins: Use):
    use_plugins("acme")
    plugin = loaded("acme")
    assert (plugin.problem, plugin.warnings) == (None, ())
    profile = discovery.profile(plugin)
    assert not isinstance(profile, str) and profile.vendor == "ACME"


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        ("rusty", "rusty", "cannot be imported: ModuleNotFoundError: No module named 'rusty_sdk"),
        ("next_major", "nextmajor", "plugin API 2.0, mix-core has 1.0: upgrade mix-core"),
        ("misspelt", "misspelt", "hooks that mix-core does not have: mix_enviroment"),
        ("miscalled", "miscalled", "colour"),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_no_other(use_plugins: Use, folder: str, name: str, said: str):
    use_plugins("acme", folder)
    plugin = loaded(name)
    assert plugin.problem is not None and said in plugin.problem
    assert discovery.probe(plugin).state == "broken"
    assert isinstance(discovery.profile(plugin), str)
    assert loaded("acme").problem is None


def test_the_signature_of_a_wrong_hook_is_shown(use_plugins: Use):
    use_plugins("miscalled")
    problem = loaded("miscalled").problem or ""
    assert "mix_environment(workload: 'object', colour: 'str')" in problem


def test_a_newer_minor_warns_with_both_numbers_and_its_new_hook_is_not_used(use_plugins: Use):
    use_plugins("next_minor")
    plugin = loaded("nextminor")
    assert plugin.problem is None
    text = "; ".join(plugin.warnings)
    assert "1.7" in text and "1.0" in text and "mix_teleport" in text
    assert discovery.probe(plugin).state == "usable"


def test_a_probe_that_imports_paddle_is_broken(start):
    code = """
import sys
from mix_core.device import discovery
plugin = discovery.load(next(e for e in discovery.find_entries() if e.name == "impure"))
print(plugin.problem, discovery.probe(plugin))
"""
    done = start(["-c", code], plugins=["impure"])
    assert "None Probe(state='broken'" in done.stdout, done.stderr
    assert "imports paddle" in done.stdout


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", {"cpu"}), ("acme", {"acme", "cpu"}), ("rusty, acme", {"acme", "cpu", "rusty"}), ("acm", {"cpu"})],
)
def test_the_load_variable_filters_by_exact_name(use_plugins: Use, value: str, expected: set[str]):
    use_plugins("acme", "rusty")
    environ = {discovery.LOAD_VARIABLE: value}
    assert {entry.name for entry in discovery.find_entries(environ=environ)} == expected


def test_an_overlay_may_only_add_kernels_and_variables(use_plugins: Use):
    use_plugins("acme_overlay", "greedy_overlay")
    assert loaded("fast_swiglu", overlay=True).problem is None
    greedy = loaded("greedy", overlay=True).problem
    assert greedy == "is an overlay and may not implement mix_blacklisted_ops"


def test_a_device_plugin_without_the_required_hooks_is_refused(use_plugins: Use):
    use_plugins("acme_overlay")
    entry = discovery.find_entries(discovery.OVERLAYS_GROUP, {})[0]
    problem = discovery.load(entry).problem
    assert problem == "does not implement mix_probe, mix_profile, mix_runtime"


def test_hook_calls_are_traced_on_request(start):
    code = "from mix_core.device.listing import list_devices; list_devices()"
    quiet = start(["-c", code], plugins=["acme"])
    assert quiet.stderr == ""
    traced = start(["-c", code], plugins=["acme"], MIX_TRACE_HOOKS="1")
    lines = [line for line in traced.stderr.splitlines() if "hook mix_probe() [acme] ->" in line]
    assert len(lines) == 1 and "Probe(state='absent'" in lines[0]
