"""The choice of a device: who decides, what explicit and automatic choices do with absent and broken ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mix_core.device import choice
from mix_core.errors import BadInputError, DeviceError

Use = Callable[..., None]
Cards = Callable[..., str]


def test_argument_beats_variable_beats_configuration_beats_auto():
    environ = {"MIX_DEVICE": "b"}
    assert [str(part) for part in choice.requested("a", "c", environ)] == ["a", "argument"]
    assert [str(part) for part in choice.requested(None, "c", environ)] == ["b", "MIX_DEVICE"]
    assert [str(part) for part in choice.requested(None, "c", {"MIX_DEVICE": ""})] == ["c", "configuration"]
    assert [str(part) for part in choice.requested(None, None, {})] == ["auto", "auto"]
    assert str(choice.requested("auto", "c", environ)[0]) == "auto"


def test_auto_takes_the_usable_device_of_highest_priority(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme")
    monkeypatch.setenv("ACME_DEV", acme_cards(2))
    chosen = choice.choose(None, None, {"MIX_DEVICES_LOAD": "acme"})
    assert (chosen.name, chosen.index, chosen.origin, chosen.skipped) == ("acme", 0, "auto", ())


def test_auto_skips_an_absent_device_with_one_line(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme")
    monkeypatch.setenv("ACME_DEV", acme_cards(0))
    chosen = choice.choose(None, None, {"MIX_DEVICES_LOAD": "acme"})
    assert chosen.name == "cpu"
    assert len(chosen.skipped) == 1
    assert chosen.skipped[0].startswith("acme skipped: no ") and "device file" in chosen.skipped[0]


@pytest.mark.parametrize("broken", ["rusty", "next_major", "misspelt"])
def test_auto_never_drops_to_the_cpu_because_a_plugin_is_broken(use_plugins: Use, broken: str):
    use_plugins(broken)
    with pytest.raises(DeviceError, match=r"auto stops.*--device cpu"):
        choice.choose(None, None, {})
    assert choice.choose("cpu", None, {}).name == "cpu"
    assert choice.choose(None, None, {"MIX_DEVICES_LOAD": ""}).name == "cpu"


def test_auto_stops_on_a_probe_that_finds_the_device_broken(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme")
    monkeypatch.setenv("ACME_DEV", acme_cards(1, driver=False))
    with pytest.raises(DeviceError, match="load the driver"):
        choice.choose(None, None, {})


def test_an_explicit_choice_of_an_absent_device_is_loud(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme")
    monkeypatch.setenv("ACME_DEV", acme_cards(0))
    for argument, config, environ in (
        ("acme", None, {}),
        (None, "acme", {}),
        (None, None, {"MIX_DEVICE": "acme"}),
    ):
        with pytest.raises(DeviceError, match=r"'acme' \(chosen by .*\) is absent: no .*acme\*"):
            choice.choose(argument, config, environ)
    assert choice.choose("acme", None, {}, needs_device=False).name == "acme"


def test_an_index_counts_the_visible_devices(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme")
    monkeypatch.setenv("ACME_DEV", acme_cards(4))
    monkeypatch.setenv("ACME_VISIBLE_DEVICES", "2,3")
    chosen = choice.choose("acme:1", None, {})
    assert (chosen.index, chosen.index_given) == (1, True)
    with pytest.raises(BadInputError, match="acme:2 does not exist: 2 visible"):
        choice.choose("acme:2", None, {})


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(DeviceError, match=r"'cpp'; did you mean 'cpu'\?"):
        choice.choose("cpp", None, {})
    with pytest.raises(BadInputError):
        choice.choose("cpu:x", None, {})


def test_a_name_inside_another_name_is_not_that_device():
    with pytest.raises(DeviceError, match="no installed plugin provides the device 'sim_cpu'"):
        choice.choose("sim_cpu", None, {})


def test_two_distributions_for_one_name_are_refused_by_name(use_plugins: Use):
    use_plugins("acme", "acme_twin")
    for name in ("acme", None):
        with pytest.raises(DeviceError, match=r"acme-twin 0\.1\.0 and mix-device-acme 0\.1\.0"):
            choice.choose(name, None, {})
    assert choice.choose("cpu", None, {}).name == "cpu"


def test_one_broken_plugin_does_not_hinder_the_named_other(use_plugins: Use, acme_cards: Cards, monkeypatch):
    use_plugins("acme", "rusty", "misspelt")
    monkeypatch.setenv("ACME_DEV", acme_cards(1))
    assert choice.choose("acme", None, {}).name == "acme"
    with pytest.raises(DeviceError, match=r"rusty \(rusty-device 0\.1\.0\) is broken: cannot be imported"):
        choice.choose("rusty", None, {})
