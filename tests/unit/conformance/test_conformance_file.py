"""conformance.toml: what is taken, and that an error names line and key."""

from __future__ import annotations

import pytest

from mix_core.device.conformance_file import check_exceptions, read_conformance
from mix_core.errors import BadInputError

RIGHT = """\
device = "acme"

[[exceptions]]
id = "L2/softmax/float16/*"
kind = "widen"
factor = 2.0
reason = "exp goes through a table"
issue = "ACME-1"
until_version = "1.2"

[[exceptions]]
id = "L1/order/event"
kind = "skip"
only = "simulated"
reason = "no events yet"
issue = "ACME-2"
until_version = "2.0"
"""


def checked(tmp_path, text, version="1.0", **where):
    path = tmp_path / "conformance.toml"
    path.write_text(text)
    return check_exceptions(read_conformance(path), "acme", version, **where)


def test_entries_are_read_with_their_places(tmp_path):
    found = checked(tmp_path, RIGHT, simulated=True)
    assert [(e.kind, e.factor, e.place.rpartition(":")[2]) for e in found.entries] == [
        ("widen", 2.0, "4"),
        ("skip", 1.0, "12"),
    ]
    assert found.of("L2/softmax/float16/forward", "widen").issue == "ACME-1"
    assert found.of("L2/softmax/float16/forward", "skip") is None


def test_entries_for_elsewhere_are_left_out(tmp_path):
    assert [entry.kind for entry in checked(tmp_path, RIGHT, simulated=False).entries] == ["widen"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "widen"', 'kidn = "widen"', ":5: unknown key 'kidn'; did you mean 'kind'?"),
        ('kind = "skip"', 'kind = "skpi"', ":13: kind is 'skpi'; did you mean 'skip'?"),
        ("factor = 2.0", "factor = 9", ":6: factor is 9, expected a number above 1, at most 4"),
        ("factor = 2.0\n", "", "factor is for kind widen"),
        ('reason = "no events yet"', 'reason = " "', ":15: reason is ' ', expected some text"),
        ('issue = "ACME-2"\n', "", ":11: issue is None, expected some text"),
        ('until_version = "1.2"', 'until_version = "soon"', ":9: until_version is 'soon'"),
        ('only = "simulated"', 'only = "board"', ":14: only is 'board'"),
        ('device = "acme"', 'device = "amce"', ":1: device is 'amce', expected 'acme'"),
        ('device = "acme"', 'devcie = "acme"', ":1: unknown key 'devcie'; did you mean 'device'?"),
    ],
)
def test_an_error_names_line_and_key(tmp_path, old, new, words):
    with pytest.raises(BadInputError) as caught:
        checked(tmp_path, RIGHT.replace(old, new))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_toml_names_the_line(tmp_path):
    with pytest.raises(BadInputError, match=r"not valid TOML.*line 4"):
        checked(tmp_path, RIGHT.replace('id = "L2', "id = L2"))


def test_an_entry_ends_with_its_version(tmp_path):
    with pytest.raises(
        BadInputError, match=r":9: the exception 'L2/softmax/float16/\*' ended with version 1.2"
    ):
        checked(tmp_path, RIGHT, version="1.2.1")


def test_what_a_hook_returns_must_be_a_mapping():
    assert check_exceptions(None, "acme", "1").entries == ()
    with pytest.raises(BadInputError, match="returned 3, not a mapping"):
        check_exceptions(3, "acme", "1")
