"""The suite through pytest: `pytest --pyargs mix_core.conformance --mix-device D [--mix-simulate]`.

Cases of a group share a process here too; the first of them that is asked for runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mix_core.errors import BadInputError

KEY: Any = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mix_core", "conformance suite of mix-core")
    group.addoption("--mix-device", help="device to test, for example cpu")
    group.addoption("--mix-simulate", action="store_true", help="test the plugin on a simulated device")
    group.addoption("--mix-level", type=int, default=None, help="levels 0 to N; all without it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mix_case" not in metafunc.fixturenames:
        return
    from mix_core.conformance.case import LEVELS
    from mix_core.conformance.plan import Selection, all_cases, select
    from mix_core.conformance.target import find_target

    config = metafunc.config
    name = config.getoption("--mix-device")
    if not name:
        raise pytest.UsageError("the conformance suite needs a device: --mix-device NAME [--mix-simulate]")
    level = config.getoption("--mix-level")
    try:
        target = find_target(name, simulated=config.getoption("--mix-simulate"))
        cases = select(all_cases(target), Selection(max(LEVELS) if level is None else level))
    except BadInputError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[KEY] = (target, cases)
    metafunc.parametrize("mix_case", cases, ids=[case.id for case in cases])


@pytest.fixture(scope="session")
def mix_results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Case -> its result; a group runs when the first case of it is asked for and selected."""
    from mix_core.conformance.runner import Runner

    target, _ = request.config.stash[KEY]
    wanted = {
        item.callspec.params["mix_case"].id for item in request.session.items if hasattr(item, "callspec")
    }
    cases = [case for case in request.config.stash[KEY][1] if case.id in wanted]
    scratch: Path = tmp_path_factory.mktemp("conformance")
    runner, found = Runner(target, scratch), {}

    def result(case: Any) -> Any:
        if case.id not in found:
            group = [one for one in cases if one.group.name == case.group.name]
            found.update({one.id: one for one in runner.run_group(group)})
        return found[case.id]

    yield result
