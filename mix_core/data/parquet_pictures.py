"""Pictures with captions out of parquet files, as the hub keeps its data sets: written out once, as a folder.

A row's column `image` holds an encoded picture: bytes, or a struct whose `bytes` are that (the `Image`
feature of Hugging Face's data sets). Its columns of texts, or of lists of texts, go into `metadata.jsonl`.
Needs the extra `[parquet]`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mix_core.data.captions import CSV, FILE_COLUMN, JSONL
from mix_core.data.digits import ensure_folder
from mix_core.errors import DataError

ENDING = ".parquet"
IMAGE_COLUMN = "image"
ROWS_AT_ONCE = 64
_ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


def parquet_files(folder: Path) -> list[Path]:
    """The folder's files in the order of their names; [] where captions stand beside pictures.

    Those of the split `train` alone where names begin with their split, as on the hub.
    """
    if any((folder / name).is_file() for name in (JSONL, CSV)):
        return []
    found = sorted(folder.rglob(f"*{ENDING}"))
    return [path for path in found if path.name.startswith("train")] or found


def pictures_of_parquet(files: Sequence[Path], cache: Path) -> Path:
    """A folder with the rows' pictures and `metadata.jsonl`, within `cache`; made where it is not there yet.

    Raises:
        DataError: pyarrow is missing, or a file or a row is not as expected.
    """
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    name = hashlib.sha256("\n".join(path for path, _, _ in stats).encode()).hexdigest()[:16]
    made_by = hashlib.sha256(repr(stats).encode() + Path(__file__).read_bytes()).hexdigest()
    return ensure_folder(cache / "parquet_pictures" / name, made_by, lambda part: _write(files, part))


def _write(files: Sequence[Path], out: Path) -> None:
    out.mkdir(parents=True)
    with (out / JSONL).open("w", encoding="utf-8") as lines:
        number = 0
        for file in files:
            for place, row in enumerate(_rows(file), start=1):
                picture = row.pop(IMAGE_COLUMN)
                data = picture.get("bytes") if isinstance(picture, dict) else picture
                name = f"{number:08d}{_ending(data, f'{file}, row {place}')}"
                (out / name).write_bytes(data)
                lines.write(json.dumps({FILE_COLUMN: name, **row}, ensure_ascii=False) + "\n")
                number += 1


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The picture and the texts of each row."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{file}: reading parquet needs pyarrow; pip install 'mix-core[parquet]', or save its pictures "
            f"with {JSONL} into a folder"
        ) from None
    try:
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        if IMAGE_COLUMN not in schema.names:
            raise DataError(
                f"{file} has the columns {', '.join(schema.names)}; expected {IMAGE_COLUMN!r} with pictures, "
                "and one with captions"
            )
        texts = [one.name for one in schema if one.name != IMAGE_COLUMN and _is_text(pyarrow, one.type)]
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=[IMAGE_COLUMN, *texts]):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None


def _is_text(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _ending(data: object, where: str) -> str:
    if not isinstance(data, bytes):
        raise DataError(
            f"{where}: {IMAGE_COLUMN} holds {type(data).__name__}, expected the bytes of a picture; files "
            "that only name pictures are not read"
        )
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind = picture.format or ""
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        kind = ""
    if kind not in _ENDINGS:
        raise DataError(f"{where}: {IMAGE_COLUMN} is no picture ({', '.join(_ENDINGS)})")
    return _ENDINGS[kind]
