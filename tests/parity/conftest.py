"""Each test of parity leaves how near ours and the peer came; tests/conftest.py prints it at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def measured(record_property: Callable[[str, Any], None]) -> Iterator[None]:
    yield
    agreement = sys.modules.get("tests.parity.agreement")
    for kind, value in getattr(agreement, "MEASURED", {}).items():
        record_property(f"parity, {kind}", value)
    if agreement is not None:
        agreement.MEASURED.clear()
