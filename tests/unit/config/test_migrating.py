"""docs/migrating.md and the tables of other names and fixed keys say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mix_core.config import RunConfig, known_names, load_config
from mix_core.config_aliases import ALIASES, ANYTHING, FIXED
from mix_core.train import LAUNCH_OPTIONS, parse_arguments

NO_KEYS = {"recipe", "help", "device", "key"}
"""Options of the training command that are no keys; and the page's word for any key."""

PAGE = Path(__file__).parents[3] / "docs" / "migrating.md"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, cells stripped."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_other_name_is_in_the_page_and_no_more():
    written = {row[0].strip("` "): row[1].strip("` ") for row in table("Names")}
    assert written == {name: alias.key for name, alias in ALIASES.items()}


def test_every_fixed_key_is_in_the_page_with_what_it_takes():
    written = {row[0].strip("` "): row[1] for row in table("Fixed keys")}
    takes = {
        name: "anything"
        if fixed.accepts is ANYTHING
        else ", ".join(["null", *(json.dumps(value) for value in fixed.accepts)])
        for name, fixed in FIXED.items()
    }
    assert written == takes


def test_what_is_not_built_is_called_so_in_the_page():
    for name, _, why in table("Fixed keys"):
        assert why.startswith("not built yet") == (FIXED[name.strip("` ")].kind == "later"), name


def options_to_type() -> list[str]:
    """Every option in the page but those of other tools, which stand in the first column of a line by line
    table."""
    page, _, lines = PAGE.read_text(encoding="utf-8").partition("\n## Line by line\n")
    here = [row.split(" | ", 1)[-1] if row.startswith("| ") else row for row in lines.splitlines()]
    return sorted(set(re.findall(r"--([a-z][\w-]*)", page + "\n".join(here))))


def options_of_commands() -> set[str]:
    frozen = (PAGE.parents[1] / "tests/goldens/commands.txt").read_text(encoding="utf-8")
    return {name.replace("-", "_") for name in re.findall(r"--([a-z][\w-]*)", frozen)}


@pytest.mark.parametrize("option", options_to_type())
def test_every_option_in_the_page_exists(option):
    assert option.replace("-", "_") in {
        *known_names(),
        "mm_data",
        *LAUNCH_OPTIONS,
        *options_of_commands(),
        *NO_KEYS,
    }


def test_the_pages_command_for_mindspeed_parses():
    section = PAGE.read_text(encoding="utf-8").split("### MindSpeed-MM", 1)[1]
    command = re.search(r"python -m mix_core.train (.*?)\n```", section, re.DOTALL)[1].replace("\\\n", "")
    request = parse_arguments(command.split())
    config = load_config(Path(__file__).parent / "samples/mindspeed_data.json", arguments=request.keys)
    assert (config.gradient_accumulation_steps, config.max_grad_norm, request.device) == (96, 0.0, "npu")
    assert not config.save_optimizer and config.output_dir == "save_dir" and isinstance(config, RunConfig)
