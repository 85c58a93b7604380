"""Runs of the whole suite begin with the file whose last tests look at them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conformance_meta.defects import HARMLESS
from tests.conformance_meta.suite_runs import ASIDE, Run, Runs, conform, run_suite, run_up_to_red


def _waits(item: pytest.Item) -> bool:
    return "whole_run" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Short forms are left out where the whole run is asked for, which asks all of their cases."""
    whole = {_defect(item) for item in items if _waits(item)}
    short = [item for item in items if item.get_closest_marker("short_form") and _defect(item) in whole]
    if short:
        config.hook.pytest_deselected(items=short)
        items[:] = [item for item in items if item not in short]


def _defect(item: pytest.Item) -> Any:
    return (
        item.callspec.params.get("defect")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )


@pytest.fixture(scope="module", autouse=True)
def whole_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Runs[list[Run]], dict[str, Future[list[Run]]]]]:
    """The runs of each test that asks for the whole suite, by the test."""
    runs, futures = Runs[list[Run]](), {}
    for item in filter(_waits, request.session.items):
        folder = tmp_path_factory.mktemp("suite")
        defect = _defect(item)
        if defect is None:
            futures[item.nodeid] = runs.add(partial(_clean, folder))
        else:
            futures[item.nodeid] = runs.add(partial(run_up_to_red, folder, defect, niceness=ASIDE))
    runs.start(1 if futures else 0)
    yield runs, futures
    runs.stop()


def _clean(folder: Path) -> list[Run]:
    return [conform(folder, faults=";".join(HARMLESS), niceness=ASIDE)]


@pytest.fixture
def whole_run(
    request: pytest.FixtureRequest, whole_runs: tuple[Runs[list[Run]], dict[str, Future[list[Run]]]]
) -> list[Run]:
    runs, futures = whole_runs
    runs.hurry()
    return futures[request.node.nodeid].result()


@pytest.fixture(scope="module")
def named_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Run]]]:
    """Runs of the cases that the table names, as many at a time as there are processors, by the test."""
    runs, futures = Runs[Run](), {}
    for item in request.session.items:
        if "named_run" in getattr(item, "fixturenames", ()):
            defect = _defect(item)
            words = [word for case in defect.caught_by for word in ("--case", case)]
            run = partial(run_suite, tmp_path_factory.mktemp("named"), defect, *words)
            futures[item.nodeid] = runs.add(run)
    runs.hurry()
    yield futures
    runs.stop()


@pytest.fixture
def named_run(request: pytest.FixtureRequest, named_runs: dict[str, Future[Run]]) -> Run:
    return named_runs[request.node.nodeid].result()
