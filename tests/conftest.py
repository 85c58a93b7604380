"""Session set-up: the CPU plugin's settings are in the environment before any test imports paddle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mix_core.device import choice, composition, settings
from mix_core.device.values import Workload
from tests.environment import clean_environment as fresh_environment
from tests.environment import with_plugins
from tests.plugins.installed import FOLDER as PLUGINS
from tests.plugins.installed import install


def pytest_configure(config: pytest.Config) -> None:
    """Compose the CPU's settings as activation would, without importing paddle.

    Activation then finds them in place, in this process and in the processes that tests start.
    """
    # a shared machine may take a second for what is done in a millisecond; examples are what counts
    hypothesis.settings.register_profile("shared", deadline=None)
    hypothesis.settings.load_profile("shared")
    if "paddle" in sys.modules:
        raise pytest.UsageError(
            "paddle was imported before tests/conftest.py could put its settings in place"
        )
    user = settings.user_environment(os.environ)
    candidate = choice.choose("cpu", None, user).candidate
    rows = composition.compose(candidate, Workload(), user).rows
    settings.apply(settings.exported(rows, os.environ), os.environ)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How near each family's logits and gradients came to the peer's, by file (tests/parity/conftest.py)."""
    nearest: dict[str, dict[str, float]] = {}
    for report in chain.from_iterable(terminalreporter.stats.values()):
        for name, value in getattr(report, "user_properties", ()):
            what, _, kind = name.partition(", ")
            if what == "parity":
                kinds = nearest.setdefault(report.location[0], {})
                kinds[kind] = max(kinds.get(kind, 0.0), value)
    for file, kinds in sorted(nearest.items()):
        figures = ", ".join(f"{kind} {value:.1e}" for kind, value in sorted(kinds.items()))
        terminalreporter.write_line(f"parity of {file}: {figures} at most, relative in norm")


@pytest.fixture
def use_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install distributions of tests/plugins into this process for a test: `use_plugins("acme", "rusty")`."""
    before = set(sys.modules)

    def use(*names: str) -> None:
        for entry in reversed(install(names, tmp_path / "site")):
            monkeypatch.syspath_prepend(entry)

    yield use
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if Path(origin).is_relative_to(PLUGINS):
            del sys.modules[name]


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """The environment of a shell that knows nothing of mix-core, for processes that tests start."""
    return fresh_environment()


@pytest.fixture
def start(
    tmp_path: Path, clean_environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Python program in a process of its own: `start(["-c", code], plugins=["acme"], NAME="value")`."""

    def run(
        arguments: Sequence[str], *, plugins: Sequence[str] = (), timeout_s: float = 120.0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environ = with_plugins(clean_environment, plugins, tmp_path / "site") | variables
        return subprocess.run(
            [sys.executable, *arguments],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run


@pytest.fixture
def failing_compiler(tmp_path: Path) -> str:
    """A compiler, for $CXX, that tells its version and compiles nothing."""
    script = tmp_path / "impatient-g++"
    script.write_text(
        "#!/bin/sh\n"
        "[ \"$1\" = --version ] && echo 'impatient g++ 13.1.0' && exit\n"
        "echo 'x.cc:1:1: error: out of patience' >&2\n"
        "exit 1\n"
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def acme_cards(tmp_path: Path) -> Callable[[int], str]:
    """Make a device folder with so many ACME cards, for $ACME_DEV."""

    def make(count: int, *, driver: bool = True) -> str:
        folder = tmp_path / "dev"
        folder.mkdir()
        for number in range(count):
            (folder / f"acme{number}").touch()
        if driver:
            (folder / "acmectl").touch()
        return str(folder)

    return make
