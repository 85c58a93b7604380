"""Every seeded defect turns the cases red that its table names; the device without one is green."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

import pytest

from mix_core.device import native
from tests.conformance_meta.defects import DEFECTS, Defect
from tests.conformance_meta.suite_runs import conform, red

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
TABLE = os.environ.get("MIX_DEFECTS_REPORT")
"""A file to append `defect -> cases that caught it` to, for the report of CI."""


def require_named(defect: Defect, failed: list[str], said: str) -> None:
    """Each case that the table names for a defect is red; the report of CI gets a row."""
    for pattern in defect.caught_by:
        assert any(fnmatchcase(name, pattern) for name in failed), (pattern, failed, said)
    if TABLE:
        with open(TABLE, "a", encoding="utf-8") as stream:
            stream.write(f"{defect.name}\t{', '.join(failed)}\n")


@pytest.mark.short_form
@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name.replace(" ", "_") for defect in DEFECTS])
def test_defect_turns_its_cases_red(named_run, defect):
    code, report, said = named_run
    assert code == 1, said
    require_named(defect, red(report), said)


@pytest.mark.short_form
def test_clean_device_is_green_on_all_of_these_cases(tmp_path):
    names = sorted({case for defect in DEFECTS for case in defect.caught_by})
    code, report, said = conform(tmp_path, *(word for name in names for word in ("--case", name)))
    assert (code, red(report)) == (0, []), said
    assert {case["status"] for case in report["cases"]} == {"passed"}, said


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name.replace(" ", "_"))
def test_the_suite_catches_the_defect(whole_run, defect):
    """It turns red, and so do the named cases: there, or by themselves where they were not."""
    (code, report, said), *alone = whole_run
    failed = red(report)
    assert (code, bool(failed), report["complete"]) == (1, True, False), said
    for code, report, said in alone:
        assert code == 1, said
        failed += red(report)
    require_named(defect, failed, said)


@pytest.mark.slow
def test_clean_device_is_green_on_the_whole_suite(whole_run):
    """With all harmless faults at once. tests/integration/test_conformance.py runs devices without any."""
    ((code, report, said),) = whole_run
    assert (code, red(report)) == (0, []), said


def test_there_are_thirty_defects_and_more():
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 30
