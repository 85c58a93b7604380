"""What the plugins of one device decide together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mix_core.device import choice, composition, explanation
from mix_core.device.settings import SettingRow
from mix_core.device.values import KernelRequest, Workload
from mix_core.errors import DeviceError

Use = Callable[..., None]


def compose(workload: Workload | None = None, **user: str) -> composition.Composition:
    candidate = choice.choose("acme", None, {}, needs_device=False).candidate
    return composition.compose(candidate, workload or Workload(), user)


def by_name(composed: composition.Composition) -> dict[str, SettingRow]:
    return {row.name: row for row in composed.rows}


def test_every_kind_of_decision_becomes_a_row(use_plugins: Use):
    use_plugins("acme")
    rows = by_name(compose())
    assert {name: (row.value, row.kind, row.stage) for name, row in rows.items()} == {
        "ACME_HEAP": ("big", "environment", "process"),
        "ACME_QUEUE": ("4", "environment", "import"),
        "ACME_TOOLS": ("/opt/acme/lib:/opt/acme/plugins", "environment", "import"),
        "CUSTOM_DEVICE_BLACK_LIST": ("set_value,cumsum", "blacklist", "import"),
        "FLAGS_allocator_strategy": ("auto_growth", "allocator", "import"),
        "FLAGS_auto_growth_chunk_size_in_mb": ("64", "allocator", "import"),
        "FLAGS_check_nan_inf": ("1", "environment", "runtime"),
        "FLAGS_tcp_store_using_libuv": ("0", "environment", "runtime"),
        "FLAGS_use_stride_kernel": ("0", "stride_kernel", "import"),
    }
    assert rows.pop("FLAGS_tcp_store_using_libuv").source == "core"
    assert {row.source for row in rows.values()} == {"plugin acme"}
    assert all(row.reason for row in rows.values())


def test_the_workload_changes_the_settings(use_plugins: Use):
    use_plugins("acme")
    assert by_name(compose(Workload(task="generation")))["ACME_TILES"].value == "on"


def test_an_overlay_lies_on_top(use_plugins: Use):
    use_plugins("acme", "acme_overlay")
    composed = compose()
    rows = by_name(composed)
    assert (rows["ACME_QUEUE"].value, rows["ACME_QUEUE"].source) == ("8", "overlay fast_swiglu")
    assert rows["ACME_TOOLS"].value == "/opt/acme/lib:/opt/acme/plugins:/opt/overlay"
    assert rows["ACME_TOOLS"].source == "plugin acme, overlay fast_swiglu"
    profile = choice.choose("acme", None, {}, needs_device=False).candidate.profile
    kernel = composed.manager.hook.mix_kernel(op="swiglu", request=KernelRequest("float32"), profile=profile)
    assert kernel.name == "overlay swiglu"


def test_an_overlay_does_not_touch_other_devices(use_plugins: Use):
    use_plugins("acme_overlay", "greedy_overlay")
    names = {row.name for row in explanation.explain_device("cpu", Workload()).rows}
    assert "OMP_NUM_THREADS" in names and "ACME_QUEUE" not in names


def test_a_broken_overlay_stops_the_device_it_serves(use_plugins: Use):
    use_plugins("acme", "greedy_overlay")
    with pytest.raises(
        DeviceError, match=r"greedy \(greedy-overlay 0\.1\.0\) is broken: .*mix_blacklisted_ops"
    ):
        compose()
    assert by_name(compose(MIX_DEVICES_LOAD="acme"))["ACME_QUEUE"].value == "4"


def test_a_hook_that_fails_or_answers_nonsense_is_named(use_plugins: Use, monkeypatch):
    use_plugins("acme")
    plugin = choice.choose("acme", None, {}, needs_device=False).candidate.plugin.module

    def fails(workload: Workload) -> None:
        raise KeyError("heap")

    def nonsense(workload: Workload) -> dict[str, str]:
        return {"ACME_QUEUE": "4"}

    for replacement, said in ((fails, "failed: KeyError"), (nonsense, "not a mapping of names to Decision")):
        marked = composition.discovery.hookspec.hookimpl(replacement)
        with monkeypatch.context() as patch:
            patch.setattr(plugin, "mix_environment", marked)
            with pytest.raises(DeviceError, match=f"mix_environment of plugin acme .*{said}"):
                compose()


def test_a_simulated_device_lies_on_the_host_s_settings(use_plugins: Use):
    use_plugins("acme")
    workload = explanation.parse_workload("understanding", None, simulate=True)
    rows = {row.name: row for row in explanation.explain_device("acme", workload).rows}
    assert rows["OMP_NUM_THREADS"].source == "plugin cpu"
    assert rows["ACME_QUEUE"].source == "plugin acme"
    without = explanation.explain_device("acme", Workload())
    assert "OMP_NUM_THREADS" not in {row.name for row in without.rows}
    assert any("acme is absent here" in note for note in without.notes)
