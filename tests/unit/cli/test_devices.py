"""`mix-core devices`: the list, its speed, and that it imports no paddle."""

from __future__ import annotations

import json
import resource

import pytest

KEYS = {"name", "distribution", "version", "vendor", "state", "reason", "priority", "source", "api"}
COMMAND = ["-m", "mix_core.cli.main", "devices"]


def test_each_plugin_has_a_row_and_broken_ones_say_why(start, acme_cards):
    plugins = ["acme", "rusty", "next_major", "next_minor", "misspelt"]
    done = start([*COMMAND, "--json"], plugins=plugins, ACME_DEV=acme_cards(0))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert all(set(row) == KEYS for row in rows.values())
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "acme": "absent",
        "cpu": "usable",
        "misspelt": "broken",
        "nextmajor": "broken",
        "nextminor": "usable",
        "rusty": "broken",
    }
    assert (rows["acme"]["distribution"], rows["acme"]["version"]) == ("mix-device-acme", "0.1.0")
    assert (rows["acme"]["vendor"], rows["acme"]["priority"], rows["acme"]["api"]) == ("ACME", 100, "1.0")
    assert rows["cpu"]["source"] == "mix_core.device.cpu"
    assert "rusty_sdk_that_is_not_installed" in rows["rusty"]["reason"]
    assert "2.0" in rows["nextmajor"]["reason"] and "1.7" in rows["nextminor"]["reason"]


def test_two_distributions_for_one_name_are_both_listed(start):
    done = start([*COMMAND, "--json"], plugins=["acme", "acme_twin"])
    rows = [row for row in json.loads(done.stdout) if row["name"] == "acme"]
    assert [row["distribution"] for row in rows] == ["acme-twin", "mix-device-acme"]
    assert all(row["state"] == "broken" and "two distributions" in row["reason"] for row in rows)


def test_the_table_for_people_has_the_same_content(start):
    done = start(COMMAND, plugins=["rusty"])
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["name", "state", "priority", "vendor", "distribution", "version", "reason"]
    assert [line.split()[:2] for line in lines[1:]] == [["cpu", "usable"], ["rusty", "broken"]]


def test_it_imports_no_paddle_and_answers_at_once(start):
    code = (
        "import sys; sys.argv = ['mix-core', 'devices'];"
        "from mix_core.cli import main\n"
        "try: main.main()\n"
        "except SystemExit as end: code = end.code\n"
        "print('exit', code, sorted({'paddle', 'numpy'} & set(sys.modules)))"
    )
    assert start(["-c", code]).stdout.splitlines()[-1] == "exit 0 []"


@pytest.mark.parametrize("plugins", [[], ["acme", "rusty"]])
def test_it_answers_in_under_0_4_seconds(start, plugins):
    """Processor time, so that what else runs on the machine does not count."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start(COMMAND, plugins=plugins)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4
