"""What `pytest --pyargs mix_core.conformance` collects: a test for each case."""

from __future__ import annotations

from typing import Any

import pytest


def test_conformance(mix_case: Any, mix_results: Any) -> None:
    result = mix_results(mix_case)
    if result.status == "skipped":
        pytest.skip(result.reason)
    if result.status == "expected failure":
        pytest.xfail(result.reason)
    if result.status == "failed":
        pytest.fail(f"{result.asks}\n{result.message}\nagain: {result.rerun}", pytrace=False)
