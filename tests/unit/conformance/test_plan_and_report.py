"""Which cases are chosen, what a report says, how two are compared; no device is started."""

from __future__ import annotations

import json

import pytest

from mix_core.conformance.case import LEVELS, Case, Group
from mix_core.conformance.on_operators import table
from mix_core.conformance.operator_uses import kernels
from mix_core.conformance.page import page
from mix_core.conformance.plan import Selection, all_cases, select
from mix_core.conformance.results import badge, compare, level_reached, make_report, read_report, write_report
from mix_core.conformance.runner import Result
from mix_core.conformance.target import find_target
from mix_core.errors import BadInputError


@pytest.fixture(scope="module")
def target():
    return find_target("cpu", simulated=False)


@pytest.fixture(scope="module")
def cases(target):
    return all_cases(target)


def result(name, status="passed", **fields):
    message = "off by 0.1" if status == "failed" else None
    return Result(name, int(name[1]), "it holds", status, message=message, rerun=f"again {name}", **fields)


def report_of(target, results, selection=None):
    return make_report(target, selection or Selection(), results, 1.0)


def test_every_level_has_cases_with_names_of_their_own(cases):
    assert {case.level for case in cases} == set(LEVELS)
    assert len({case.id for case in cases}) == len(cases) > 1000
    assert all(case.asks and "/" in case.id for case in cases)


def test_every_kernel_that_models_call_has_a_use():
    covered = {name for kernel in kernels() for name in kernel.covers}
    elsewhere = {"adamw"}  # level 3: the operator's contract is about it
    assert set(table()["kernels"]) - covered - elsewhere == set()


def test_uses_have_names_of_their_own():
    names = [kernel.use.name for kernel in kernels()]
    assert len(set(names)) == len(names)
    assert set(table()["uses"]) == set(names)


def test_selections(cases):
    assert {case.level for case in select(cases, Selection(level=1))} == {0, 1}
    assert {case.level for case in select(cases, Selection(only_level=3))} == {3}
    assert {case.operator for case in select(cases, Selection(operator="rms_norm"))} == {"rms_norm"}
    assert [case.id for case in select(cases, Selection(ids=("L0/probe/*",)))] == [
        "L0/probe/time",
        "L0/probe/answer",
    ]


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(level=9), "level 9 does not exist; there are 0 to 6"),
        (Selection(operator="rms_nrom"), "the operator 'rms_nrom'; did you mean 'rms_norm'?"),
        (Selection(model="qwen3"), "the model 'qwen3'"),
        (Selection(ids=("L0/prob/time",)), "did you mean 'L0/probe/time'?"),
        (Selection(only_level=0, operator="rms_norm"), "no case is left"),
    ],
)
def test_what_is_not_there_is_named(cases, selection, words):
    with pytest.raises(BadInputError) as caught:
        select(cases, selection)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "simulated", "words"),
    [
        ("auto", False, "one device"),
        ("nup", False, "no installed plugin"),
        ("cpu", True, "cannot be simulated"),
    ],
)
def test_devices_that_cannot_be_tested(name, simulated, words):
    with pytest.raises(BadInputError, match=words):
        find_target(name, simulated=simulated)


def test_level_reached_stops_at_the_first_red():
    green = [result(f"L{level}/a") for level in range(4)]
    assert level_reached(green) == 3
    assert level_reached([*green, result("L2/b", "failed")]) == 1
    assert level_reached([*green, result("L2/b", "skipped")]) == 3
    assert level_reached(green[1:]) is None
    assert level_reached([*green[:3], result("L3/a", "skipped")]) == 2, "nothing of it ran"


def test_a_badge_comes_from_a_complete_report_alone(target, tmp_path):
    results = [result("L0/a"), result("L1/a", "failed")]
    whole = report_of(target, results)
    assert badge(whole).startswith("conformant L0 cpu: 1 passed, 1 failed, 0 skipped; mix-core ")
    part = report_of(target, results, Selection(level=1))
    assert badge(part) is None
    assert [path.name for path in write_report(tmp_path, whole)] == [
        "report.json",
        "report.html",
        "badge.txt",
    ]
    assert [path.name for path in write_report(tmp_path, part)] == ["report.json", "report.html"]
    assert not (tmp_path / "badge.txt").exists(), "an old badge does not outlive a partial run"
    assert badge(report_of(target, [result("L0/a", "failed")])) is None


def test_a_report_is_read_back(target, tmp_path):
    report = report_of(target, [result("L0/a")])
    write_report(tmp_path, report)
    assert read_report(tmp_path) == json.loads(json.dumps(report))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "schema version 2, this mix-core reads 1"),
        ({"schema": "other"}, "is no report of the conformance suite"),
        ({"cases": None}, "lacks cases"),
    ],
)
def test_other_reports_are_refused(target, tmp_path, change, words):
    report = {**report_of(target, [result("L0/a")]), **change}
    report = {key: value for key, value in report.items() if value is not None or key == "level_reached"}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    with pytest.raises(BadInputError, match=words):
        read_report(path)
    with pytest.raises(BadInputError, match="does not exist"):
        read_report(tmp_path / "none.json")


def test_comparing_lists_first_what_got_worse(target):
    near, far = {"distance": 1e-7, "limit": 1e-6}, {"distance": 5e-7, "limit": 1e-6}
    old = [result("L0/a", "failed"), result("L0/b"), result("L0/c", facts=near), result("L0/gone")]
    new = [result("L0/a"), result("L0/b", "failed"), result("L0/c", facts=far), result("L0/new")]
    lines = compare(report_of(target, old), report_of(target, new))
    assert [line.split()[0] for line in lines] == ["worse", "worse", "worse", "better", "new"]
    assert lines[0] == "worse   L0/b: passed before, now failed: off by 0.1"
    assert "distance 1.0e-07, now 5.0e-07" in lines[1]
    assert "not asked any more" in lines[2]
    assert compare(report_of(target, old), report_of(target, old)) == ["nothing differs"]


def test_the_page_shows_failures_skips_and_curves_and_escapes(target):
    curve = {"curve": [2.0, 1.0], "reference": [2.0, 1.1], "distance": 0.1, "limit": 0.2}
    results = [
        result("L0/a"),
        result("L2/op/<add>", "failed", operator="<add>", dtype="float32"),
        result("L2/op/mul", operator="mul", dtype="float32", facts={"distance": 1e-7, "limit": 1e-6}),
        result("L5/m/curve", facts=curve),
        Result("L6/x", 6, "it holds", "skipped", reason="no collectives"),
    ]
    text = page(report_of(target, results))
    assert "<add>" not in text
    assert "again L2/op/&lt;add&gt;" in text
    assert "1 red" in text and ">0.10<" in text
    assert "1: no collectives" in text
    assert text.count("<polyline") == 2
    assert "http" not in text, "the page needs no network"


def test_a_group_says_which_process_a_case_needs():
    case = Case("L1/a", "it holds", Group("one"), lambda context: None)
    assert (case.level, case.group.activates) == (1, True)
