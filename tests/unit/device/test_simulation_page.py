"""docs/simulation.md tells of every fault, variable and counter that there is, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mix_core.device import simulate
from mix_core.device.simulate_faults import KINDS, check_faults
from mix_core.errors import BadInputError

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| `([^`]+)` \| (.*) \|$", re.MULTILINE)
READ = re.compile(r'"(MIX_SIM_[A-Z]+)"')


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """First cell -> the other cells, of every table row that starts with code."""
    text = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    return {name: cells.split(" | ") for name, cells in ROW.findall(text)}


def test_every_fault_stands_there_with_its_settings_and_meaning(rows):
    found = {name: cells for name, cells in rows.items() if ":" in name and name in KINDS}
    assert list(found) == list(KINDS)
    for name, cells in found.items():
        settings, meaning = cells[0], cells[1]
        assert re.findall(r"\*\*`(\w+)`\*\*", settings) == list(KINDS[name].required), name
        assert set(re.findall(r"`(\w+)`", settings)) == {*KINDS[name].required, *KINDS[name].optional}, name
        assert meaning == KINDS[name].meaning, name


def test_every_variable_stands_there(rows):
    sources = [*(ROOT / "csrc" / "sim").glob("*.cc"), Path(simulate.__file__)]
    read = {name for path in sources for name in READ.findall(path.read_text(encoding="utf-8"))}
    users = {simulate.DEVICES, simulate.MEMORY, simulate.TABLE, simulate.PROTECT, simulate.FAULTS}
    derived = {simulate.TYPE, simulate.OPERATORS, simulate.BYTES, simulate.REFUSED}
    assert {name for name in rows if name.startswith("MIX_SIM")} == (read - derived) | users | {
        simulate.VARIABLE
    }


@pytest.mark.parametrize("name", sorted(KINDS))
def test_faults_of_the_page_are_taken(name):
    settings = "".join(f",{key}={'matmul' if key == 'name' else 1}" for key in KINDS[name].required)
    check_faults(name + settings)
    with pytest.raises(BadInputError, match="has no setting 'often'"):
        check_faults(f"{name}{settings},often=1")
