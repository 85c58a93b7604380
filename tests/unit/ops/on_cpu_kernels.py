"""A plugin of pytest: the CPU is active, so that the operators' tests run its kernels where it has one.

`pytest -p tests.unit.ops.on_cpu_kernels FILES` ends with 1 where an operator of `--kernels-served` was not
asked for or was served by its reference.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels-served", default="", help="Operators that must run as kernels, by comma.")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    from mix_core.device import activate

    activate("cpu")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    from mix_core.device import active

    activation = active()
    assert activation is not None, "it was activated at the start"
    served = {row["op"] for row in activation.to_json()["kernels"] if row["kernel"] != "reference"}
    wanted = set(session.config.getoption("--kernels-served").split(",")) - {""}
    if wanted - served:
        print(f"\nnot served by a kernel: {', '.join(sorted(wanted - served))}")
        session.exitstatus = 1
