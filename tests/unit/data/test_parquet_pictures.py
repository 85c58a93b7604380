"""Data sets of pictures in parquet files, local and from the hub, as folders of pictures with captions."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="parquet needs the extra [parquet] (pyarrow)")

import pyarrow as pa
import pyarrow.parquet as pq

from mix_core.config import RunConfig
from mix_core.data.parquet_pictures import parquet_files
from mix_core.errors import DataError
from mix_core.training.pictures.rows import read_picture_rows
from tests.builders.hub_server import hub_server

READ = """
import json, sys
from mix_core.config import RunConfig
from mix_core.training.pictures.rows import read_picture_rows
found = read_picture_rows(RunConfig(dataset_name="someone/digits", cache_dir=sys.argv[1]))
print(json.dumps([[one.captions[0], one.path.is_file()] for one in found.train]))
"""


def encoded(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, kind)
    return file.getvalue()


def write(path: Path, pictures: list[Any], **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pictures, **columns}), path)
    return path


def hub_rows(first: int, count: int, kind: str = "PNG") -> list[dict[str, Any]]:
    """As the `Image` feature of the hub's data sets is stored."""
    return [{"bytes": encoded(first + i, kind), "path": None} for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures to train on in two files, and a file of another split."""
    data = tmp_path / "digits" / "data"
    write(data / "train-00000-of-00002.parquet", hub_rows(10, 2), text=["a one", "ä two"], size=[1, 2])
    write(data / "train-00001-of-00002.parquet", hub_rows(30, 1, "JPEG"), text=["a three"], size=[3])
    write(data / "test-00000-of-00001.parquet", hub_rows(90, 1), text=["not read"], size=[4])
    return tmp_path / "digits"


def rows_of(folder: Path, key: str = "dataset_name", **keys: Any) -> Any:
    return read_picture_rows(RunConfig(**{key: str(folder)}, cache_dir=str(folder.parent / "cache"), **keys))


def test_pictures_and_captions_come_out_as_they_went_in(folder: Path) -> None:
    found = rows_of(folder)
    assert [one.captions for one in found.train] == [("a one",), ("ä two",), ("a three",)]
    assert found.train[0].path.read_bytes() == encoded(10) and found.train[2].path.suffix == ".jpg"
    assert list(found.to_json()["train"]["files"]) == [str(found.folder / "metadata.jsonl")]
    assert rows_of(folder, "train_data_dir").folder == found.folder
    with pytest.raises(DataError, match=r"no column 'words'; give caption_column as one of: text$"):
        rows_of(folder, caption_column="words")


def test_they_are_written_once_and_anew_when_a_file_changes(folder: Path) -> None:
    first = rows_of(folder).train[0].path
    before = first.stat().st_mtime_ns
    assert rows_of(folder).train[0].path.stat().st_mtime_ns == before
    write(folder / "data/train-00000-of-00002.parquet", hub_rows(11, 1), text=["another"])
    assert [one.captions[0] for one in rows_of(folder).train] == ["another", "a three"]


def test_bytes_alone_several_captions_and_no_splits(tmp_path: Path) -> None:
    captions = [["one", "two"], ["three"]]
    file = write(tmp_path / "d/part.parquet", [encoded(1), encoded(2, "WEBP")], captions=captions)
    assert parquet_files(tmp_path / "d") == [file]
    found = rows_of(tmp_path / "d", caption_column="captions").train
    assert [one.captions for one in found] == [("one", "two"), ("three",)]
    (tmp_path / "d/metadata.jsonl").write_text("{}")
    assert parquet_files(tmp_path / "d") == []


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        ([b"nothing"], "d.parquet, row 1: image is no picture"),
        ([*hub_rows(1, 1), {"bytes": None, "path": "a"}], "row 2: image holds NoneType, expected the bytes"),
        (["a.png"], "row 1: image holds str, expected the bytes of a picture"),
    ],
)
def test_rows_that_hold_no_picture(tmp_path: Path, pictures: list[Any], says: str) -> None:
    write(tmp_path / "set/d.parquet", pictures, text=["x"] * len(pictures))
    with pytest.raises(DataError, match=says):
        rows_of(tmp_path / "set")
    left = (tmp_path / "cache/parquet_pictures").iterdir()
    assert not [path for path in left if path.is_dir()], "nothing half done is left"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/d.parquet").write_bytes(b"PAR1" + bytes(np.arange(50, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"d\.parquet cannot be read as parquet"):
        rows_of(tmp_path / "set")
    pq.write_table(pa.table({"picture": [b""], "text": ["x"]}), tmp_path / "set/d.parquet")
    with pytest.raises(DataError, match="has the columns picture, text; expected 'image'"):
        rows_of(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; pip install 'mix-core\[parquet\]'"):
        rows_of(tmp_path / "set")


def test_a_data_set_of_the_hub(folder: Path, tmp_path: Path) -> None:
    with hub_server({"datasets/someone/digits": folder}) as server:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path / "cache")],
            env={**kept, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hub")},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [["a one", True], ["ä two", True], ["a three", True]]
