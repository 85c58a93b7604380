"""The commands of docs/authoring.md, chapter by chapter, on the plugin as it stands there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.device import native
from tests.builders.tutorial import OVERLAY, Chapter, chapters, overlay_chapter, plugin_after
from tests.environment import ONE_THREAD, clean_environment, with_plugins

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
LIMIT_S = 1800
"""Of one command; the last one is the whole suite."""


def run(folder: Path, words: list[str], plugins: list[Path], expected: int = 0) -> str:
    environ = with_plugins(clean_environment(), [str(plugin) for plugin in plugins], folder / "site")
    environ |= ONE_THREAD
    command = [sys.executable, "-W", "ignore", "-m", "mix_core.cli.main", *words]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == expected, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: f"{chapter.number}")
def test_commands_of_a_chapter_end_as_the_page_says(tmp_path, chapter: Chapter):
    plugin = plugin_after(chapter.number, tmp_path)
    said = [run(tmp_path, words, [plugin], code) for words, code in chapter.commands()]
    assert said
    if chapter.blocks("toml")[-1:] and chapter.number > 1:  # its conformance.toml
        assert "widened L3/swiglu/plain/float32: 2 times the limit" in said[-1]


def test_an_overlay_s_attention_passes_and_serves(tmp_path):
    """The device's own plugin stays as it is; what the overlay leaves is served as before."""
    plugin = plugin_after(7, tmp_path)
    [(words, code)] = overlay_chapter().commands()
    said = run(tmp_path, [*words, "--report", "report"], [plugin, OVERLAY], code)
    assert "L3 replaceable operators" in said
    cases = json.loads((tmp_path / "report" / "report.json").read_text())["cases"]
    passed = [case["id"] for case in cases if case["status"] == "passed"]
    assert {"L3/attention/causal/float32", "L3/attention/mask_per_head/float32"} <= set(passed)
    assert serving(tmp_path, [plugin, OVERLAY]) == ["tuned attention", "acme swiglu"]
    assert serving(tmp_path, [plugin]) == ["csrc attention", "acme swiglu"]


def serving(folder: Path, plugins: list[Path]) -> list[str]:
    """What serves attention and swiglu on the simulated device."""
    program = (
        "import json, mix_core.device as d\n"
        "active = d.activate('acme', simulate=True)\n"
        "requests = {'attention': d.KernelRequest('float32', head_dim=64, causal=True, training=True),"
        " 'swiglu': d.KernelRequest('float32', training=True)}\n"
        "print(json.dumps([active.serving(op, request).name for op, request in requests.items()]))"
    )
    environ = with_plugins(clean_environment(), [str(plugin) for plugin in plugins], folder / "site")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names
