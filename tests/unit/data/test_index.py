"""JSON lines through an index: the same rows as parsing everything, kept, renewed, and small in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mix_core.data.index as index
import mix_core.data.readers as readers
from mix_core.data.index import LineFile
from mix_core.data.readers import read_dataset
from mix_core.errors import DataError

VALUES = st.dictionaries(st.text(max_size=3), st.text(max_size=12), max_size=3)
GAPS = st.lists(st.sampled_from(["", " ", "\t\r", "   "]), max_size=3)


def row(number, question="q"):
    turns = [{"role": "user", "content": f"{question}{number}"}, {"role": "assistant", "content": "a"}]
    return {"messages": turns}


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@settings(deadline=None, max_examples=80)
@given(
    lines=st.lists(st.tuples(VALUES, GAPS, st.sampled_from(["", " ", "  "])), max_size=20),
    ends_with_newline=st.booleans(),
    mark=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_rows_are_those_of_the_lines_that_hold_something(
    tmp_path_factory, lines, ends_with_newline, mark, chunk
):
    text, wanted = "", []
    for value, gaps, indent in lines:
        text += "".join(gap + "\n" for gap in gaps)
        text += indent + json.dumps(value, ensure_ascii=False).replace("\x85", "") + "\n"
        wanted.append(json.loads(json.dumps(value, ensure_ascii=False).replace("\x85", "")))
    if not ends_with_newline:
        text = text.removesuffix("\n")
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if mark and lines and not lines[0][1] else b"") + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "CHUNK_BYTES", chunk)  # lines and gaps over the edges of what is read at once
        file = LineFile(path)
    assert [file[number] for number in range(len(file))] == wanted
    assert file.lengths_bytes().sum() <= path.stat().st_size
    with pytest.raises(IndexError):
        file[len(wanted)]


def test_a_large_file_gives_the_same_rows_as_a_small_one(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [row(number) for number in range(50)])
    whole = [*read_dataset(str(path))]
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 100)
    table = read_dataset(f"{path}#40", index_folder=tmp_path / "index")
    assert type(table.sets[0]).__name__ == "IndexedSet"
    assert [*table] == whole[:40] and table[3:5] == whole[3:5]
    assert table.source(7) == whole[7]["source"] == f"{path} row 8"
    lengths = table.about_lengths(len)
    assert len(lengths) == 40 and lengths[0] == len(json.dumps(row(0))) + 1


def test_the_index_is_made_once_and_anew_for_another_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [row(number) for number in range(9)])
    folder = tmp_path / "index"
    LineFile(path, folder)
    (kept,) = folder.iterdir()
    made = []
    find = index._find_starts
    monkeypatch.setattr(index, "_find_starts", lambda *given: made.append(1) or find(*given))
    assert len(LineFile(path, folder)) == 9 and not made
    write(path, [row(number) for number in range(11)])
    assert LineFile(path, folder)[10] == row(10) and made == [1]
    (renewed,) = folder.iterdir()
    assert renewed != kept
    renewed.write_bytes(b"broken")
    assert len(LineFile(path, folder)) == 11 and made == [1, 1]
    (tmp_path / "file").touch()
    assert len(LineFile(path, tmp_path / "file" / "index")) == 11  # no folder to keep it: it is made again


def test_a_bad_line_names_its_row_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 10)
    path = write(tmp_path / "a.jsonl", [row(0), row(1)])
    with path.open("ab") as file:
        file.write(b'{"messages": [}\n{"x": "\xff"}\n{"text": 1}\n')
    table = read_dataset(str(path))
    assert len(table) == 5 and table[1]["messages"][0]["content"] == "q1"
    for number, message in (
        (2, r"a\.jsonl row 3: no valid JSON at column 15: Expecting value"),
        (3, r"a\.jsonl row 4: byte 7 of its line is not UTF-8"),
        (4, r"a\.jsonl row 5: no list of messages or conversations; the row's keys are text"),
    ):
        with pytest.raises(DataError, match=message):
            table[number]
    assert [one is None for one in table.usable()] == [False, False, True, True, True]


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(number) for number in range(9)])
    file = LineFile(path)
    os.truncate(path, 100)
    with pytest.raises(DataError, match="has become shorter since its index was made"):
        file[8]


def test_rows_of_a_large_file_are_not_kept_in_memory(tmp_path):
    """400 MB of rows in a process that may not hold 100 MB more than at its start."""
    path = tmp_path / "large.jsonl"
    line = json.dumps(row(0, "q" * 4000)) + "\n"
    with path.open("w") as file:
        for _ in range(100):
            file.write(line * 1000)
    program = """
import resource, sys
from mix_core.data.readers import read_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = read_dataset(sys.argv[1])
for number in range(0, len(table), 50):
    assert len(table[number]["messages"][0]["content"]) > 4000
print(len(table), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 100_000 and kilobytes < 100_000
    assert np.isclose(path.stat().st_size, 4.1e8, rtol=0.05)
