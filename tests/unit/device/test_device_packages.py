"""The three device packages of this repository: probes on machines made of files, and profiles."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mix_core.device import discovery
from mix_core.device.probing import device_files, version_in_file, visible_count

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {"npu": ("davinci", "ASCEND_RT_VISIBLE_DEVICES"), "xpu": ("xpu", "XPU_VISIBLE_DEVICES")}
PACKAGES["gpu"] = ("nvidia", "CUDA_VISIBLE_DEVICES")


@pytest.fixture(params=sorted(PACKAGES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def plugin(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / f"mix_device_{name}" / "src"))
    for _, variable in PACKAGES.values():
        monkeypatch.delenv(variable, raising=False)
    yield importlib.import_module(f"mix_device_{name}.plugin")
    for module in [m for m in sys.modules if m.startswith("mix_device_")]:
        del sys.modules[module]


@pytest.fixture
def machine(name: str, plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Four cards as files, with or without the vendor's Paddle."""

    def make(cards: int, paddle: str | None) -> None:
        for number in range(cards):
            (tmp_path / f"{PACKAGES[name][0]}{number}").touch()
        (tmp_path / f"{PACKAGES[name][0]}_manager").touch()
        monkeypatch.setattr(plugin, "device_files", lambda pattern: device_files(pattern, tmp_path))
        monkeypatch.setattr(plugin, "installed_version", lambda distribution: paddle)

    return make


def test_no_card_is_absent(plugin: ModuleType, machine):
    machine(0, "3.3.1")
    assert plugin.mix_probe().state == "absent"


def test_cards_without_the_vendor_s_paddle_are_broken(plugin: ModuleType, machine):
    machine(4, None)
    found = plugin.mix_probe()
    assert (found.state, found.count) == ("broken", 4)
    assert "not installed" in found.reason


def test_cards_are_counted_by_the_visible_set(name: str, plugin: ModuleType, machine, monkeypatch):
    machine(4, "3.3.1")
    assert (plugin.mix_probe().state, plugin.mix_probe().count) == ("usable", 4)
    monkeypatch.setenv(PACKAGES[name][1], "1,3")
    assert plugin.mix_probe().count == 2
    monkeypatch.setenv(PACKAGES[name][1], "")
    assert (plugin.mix_probe().state, plugin.mix_probe().count) == ("absent", 0)


def test_hooks_are_valid_and_the_profile_is_its_own(name: str, plugin: ModuleType):
    point = discovery.EntryPoint(name, f"mix_device_{name}.plugin", discovery.DEVICES_GROUP)
    loaded = discovery.load(discovery.Entry(name, f"mix-device-{name}", "0.1.0", point.value, point))
    assert (loaded.problem, loaded.warnings) == (None, ())
    profile = discovery.profile(loaded)
    assert not isinstance(profile, str) and (profile.name, profile.device_type) == (name, name)
    assert profile.visible_devices_variable == PACKAGES[name][1]
    assert profile.paddle_versions is not None and profile.paddle_versions.contains("3.3.1")


def test_an_old_driver_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT / "mix_device_npu" / "src"))
    plugin = importlib.import_module("mix_device_npu.plugin")
    (tmp_path / "davinci0").touch()
    (tmp_path / "version.info").write_text("Version=22.0.1\nascendhal_version=7.0\n")
    monkeypatch.setattr(plugin, "device_files", lambda pattern: device_files(pattern, tmp_path))
    monkeypatch.setattr(plugin, "installed_version", lambda distribution: "3.0")
    monkeypatch.setattr(plugin, "DRIVER_FILE", tmp_path / "version.info")
    found = plugin.mix_probe()
    assert found.state == "broken" and "22.0.1 is outside >=23.0.3" in found.reason


def test_device_files_are_matched_wholly_and_in_order(tmp_path: Path):
    for name in ("nvidia10", "nvidia2", "nvidia-uvm", "nvidiactl", "xnvidia1"):
        (tmp_path / name).touch()
    assert device_files(r"nvidia\d+", tmp_path) == ["nvidia2", "nvidia10"]
    assert device_files(r"nvidia\d+", tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "count"),
    [(None, 4), ("", 0), ("0", 1), ("3, 1", 2), ("0,-1,2", 1), ("0,9", 1), ("GPU-1f,GPU-2e", 2)],
)
def test_visible_sets(text: str | None, count: int):
    assert visible_count(4, "V", {} if text is None else {"V": text}) == count


def test_versions_in_files(tmp_path: Path):
    pattern = r"Kernel Module.*?(\d+(?:\.\d+)+)"
    for line in (
        "NVIDIA UNIX x86_64 Kernel Module  550.54.15",
        "NVIDIA UNIX Open Kernel Module for x86_64  550.54.15",
    ):
        (tmp_path / "v").write_text(f"NVRM version: {line}  Release Build\n")
        assert version_in_file(tmp_path / "v", pattern) == "550.54.15"
    assert version_in_file(tmp_path / "none", "(x)") is None
