"""The Ascend plugin's modules are imported from the tree; the distribution need not be installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "mix_device_npu" / "src"))

INSTALL = "../../mix_device_npu"
"""The distribution's folder as tests.plugins.installed takes it."""


@pytest.fixture
def mix_core(start: Callable[..., Any]) -> Callable[..., Any]:
    """Run the command with the Ascend plugin installed: `mix_core("explain", "npu", NAME="value")`."""
    return lambda *words, **variables: start(
        ["-m", "mix_core.cli.main", *words], plugins=[INSTALL], **variables
    )
