"""The repository's root holds what it is meant to hold: a trial file left there would be committed unseen."""

from __future__ import annotations

import subprocess

import pytest

from tests.unit.rules.conftest import EVERYTHING, ROOT, ROOT_FILES

ALSO = (".gitignore", "LICENSE")


def test_nothing_else_is_kept_in_the_root():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("this tree is no git checkout: what is kept in it cannot be told from what was built")
    kept = {line.partition("/")[0] for line in listing.stdout.splitlines()}
    assert kept == {*EVERYTHING, *ROOT_FILES, *ALSO}
