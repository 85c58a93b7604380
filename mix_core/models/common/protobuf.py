"""Fields of a protobuf message, for the two that SentencePiece writes: its model and its encodings.

Wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: whole numbers, and bytes of everything else.

    Raises IndexError where the message is cut off or has a type that SentencePiece never writes.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length, at = _varint(data, at)
        if kind not in (1, 2, 5) or at + length > len(data):
            raise IndexError(f"field {key >> 3} of wire type {kind} ends after byte {len(data)}")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in variable length -> (value, place after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
