"""The Kunlun plugin's modules are imported from the tree; the distribution need not be installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "mix_device_xpu" / "src"))

INSTALL = "../../mix_device_xpu"
"""The distribution's folder as tests.plugins.installed takes it."""


@pytest.fixture
def command(start: Callable[..., Any]) -> Callable[..., Any]:
    """Run mix-core with the Kunlun plugin installed: `command("explain", "xpu", NAME="value")`."""
    return lambda *words, **variables: start(
        ["-m", "mix_core.cli.main", *words], plugins=[INSTALL], **variables
    )


class Recorder:
    """Stands for a published function: notes each call, and answers with `result(*arguments, **keywords)`."""

    def __init__(self, result: Callable[..., Any]) -> None:
        self.result = result
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls.append((arguments, keywords))
        return self.result(*arguments, **keywords)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
