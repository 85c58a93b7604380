"""Arrays out of a pickle, without unpickling it: nothing that the file names is imported or called.

Paddle's `.pdparams` files are pickles of a dict of NumPy arrays. A pickle is a program for a small stack
machine; here that program is interpreted by a machine that knows dicts, lists, tuples, numbers, texts,
bytes and how NumPy writes an array down, and nothing else. Names of functions and classes (GLOBAL,
STACK_GLOBAL) are looked up in a table of `_Word`s, which are marks and not the functions themselves. Any
other name or opcode is refused. Long bytes are not read but noted with their place, so that a file of any
size costs little memory; an array's are read when its turn has come.

Opcodes: `pickletools` of the standard library, the table of what a pickle is made of.
"""

from __future__ import annotations

import enum
import math
import pickletools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mix_core.errors import WeightsError

BIG_SLICES = "UnpackBigParamInfor@@"
"""Key under which Paddle (pickle protocols 2 and 3) tells which arrays were cut up, and their shapes."""
PARAMETER_NAMES = "StructuredToParameterName@@"
"""Key of Paddle's inner names, which say nothing about the weights."""

_DTYPE = re.compile(r"[<|=]?([fiu][1248]|b1)")
_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error)


class _Word(enum.Enum):
    """A name that an array's description uses."""

    RECONSTRUCT = "numpy's empty array"
    NDARRAY = "numpy's array class"
    DTYPE = "numpy's dtype class"
    ENCODE = "text back to bytes"
    BYTES = "no bytes"
    TUPLE = "tuple"
    ORDERED_DICT = "ordered dict"


_WORDS = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Word.RECONSTRUCT for core in ("core", "_core")},
    ("numpy", "ndarray"): _Word.NDARRAY,
    ("numpy", "dtype"): _Word.DTYPE,
    ("_codecs", "encode"): _Word.ENCODE,
    ("builtins", "bytes"): _Word.BYTES,
    ("__builtin__", "bytes"): _Word.BYTES,
    ("builtins", "tuple"): _Word.TUPLE,
    ("__builtin__", "tuple"): _Word.TUPLE,
    ("collections", "OrderedDict"): _Word.ORDERED_DICT,
}


@dataclass(frozen=True)
class _Span:
    """Bytes that stay in the file."""

    file: Path
    start: int
    length: int
    """As stored."""
    text: bool = False
    """Whether they are stored as a text with a character for each byte (pickle protocol 2)."""

    def read(self) -> np.ndarray:
        # read and not mapped: a mapped file that another program cuts short ends the process
        with self.file.open("rb") as file:
            file.seek(self.start)
            stored = np.fromfile(file, np.uint8, self.length)
        if len(stored) < self.length:
            raise WeightsError(f"{self.file} has become shorter while it was read; fetch it again")
        if not self.text:
            return stored
        return np.frombuffer(stored.tobytes().decode("utf-8").encode("latin1"), np.uint8)


@dataclass(frozen=True)
class PickledArray:
    """An array in a file; bfloat16 is uint16, as Paddle writes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: tuple[bytes | _Span, ...]
    """What its bytes are, one piece after the other."""
    fortran: bool = False

    def read(self) -> np.ndarray:
        """Its values. Raises WeightsError where the file has changed."""
        parts = [
            one.read() if isinstance(one, _Span) else np.frombuffer(one, np.uint8) for one in self.pieces
        ]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole.view(self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


class _Array:
    """An array whose contents come later."""

    filled: PickledArray | None = None


class _Mark:
    """Where on the stack a group begins."""


class _Dtype:
    def __init__(self, name: str) -> None:
        self.name = name


class _Refused(ValueError):
    """The pickle asks for more than arrays."""


class _Limited:
    """A file that never gives more than it has left, so that a forged length claims no memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int = -1) -> bytes:
        left = self.size - self.file.tell()
        return self.file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        return self.file.readline()

    def pass_over(self, count: int) -> int:
        """Where the next bytes begin, which are passed over. Raises ValueError where there are fewer."""
        start = self.file.tell()
        if count > self.size - start:
            raise ValueError(f"{count} bytes are announced and {self.size - start} are left")
        self.file.seek(count, 1)
        return start


_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_LONG = {"BINBYTES": 4, "BINBYTES8": 8, "BINUNICODE": 4, "BINUNICODE8": 8}
"""Operations whose argument may be long, and the bytes of its length."""
_LONG_FROM = 1024


def _operations(path: Path, file: _Limited) -> Iterator[tuple[str, Any]]:
    """(operation, argument) up to the end of the pickle. Raises ValueError."""
    while True:
        code = file.read(1)
        if code not in _OPCODES:
            raise ValueError(f"{code!r} is no pickle operation" if code else "the pickle has no end")
        opcode = _OPCODES[code]
        if opcode.name == "STOP":
            return
        if opcode.name in _LONG:
            length = int.from_bytes(_exactly(file, _LONG[opcode.name]), "little")
            text = opcode.name.startswith("BINUNICODE")
            if length >= _LONG_FROM:
                yield opcode.name, _Span(path, file.pass_over(length), length, text)
            else:
                data = _exactly(file, length)
                yield opcode.name, str(data, "utf-8", "surrogatepass") if text else data
            continue
        yield opcode.name, opcode.arg.reader(file) if opcode.arg else None


def _exactly(file: _Limited, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError(f"{count} bytes are announced and {len(data)} are left")
    return data


def read_pickled_arrays(path: Path) -> dict[str, PickledArray]:
    """The arrays of a `.pdparams` file by name.

    Raises:
        WeightsError: the file is truncated, no pickle, no dict of arrays, or asks for anything but arrays.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = _Machine().run(_operations(path, _Limited(file, size)))
        return _arrays(found)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    except _Refused as error:
        raise WeightsError(f"{path} is refused: {error}; only plain arrays are read from a pickle") from None
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(
            f"{path} is truncated or no file of arrays as Paddle saves them ({size} bytes: {reason})"
        ) from None


class _Machine:
    """The stack machine. `_TABLE` holds what it can do, by the opcode's name."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, operations: Iterator[tuple[str, Any]]) -> Any:
        for name, argument in operations:
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _TABLE:
                _TABLE[name](self, argument)
            elif name not in _NOTHING:
                raise _Refused(f"it uses the pickle operation {name}")
        (result,) = self.stack
        return result

    def group(self) -> list[Any]:
        """What stands above the last mark, which goes too."""
        place = max(i for i, one in enumerate(self.stack) if isinstance(one, _Mark))
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("keys and values for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise ValueError("a key that is neither text nor number")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("entries for what is no list")
        self.stack[-1].extend(items)

    def name(self, module: Any, name: Any) -> None:
        word = _WORDS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if word is None:
            asked = f"{str(module)[:60]}.{str(name)[:60]}"
            raise _Refused(f"it names {''.join(c if c.isprintable() else '?' for c in asked)}")
        self.push(word)

    def call(self) -> None:
        word, arguments = self.last(2)
        if not isinstance(word, _Word) or not isinstance(arguments, tuple):
            raise _Refused("it calls something that is no array")
        self.push(_called(word, arguments))

    def build(self) -> None:
        (state,) = self.last(1)
        target = self.stack[-1]
        if isinstance(target, _Array):
            target.filled = _filled(state)
        elif (
            isinstance(target, _Dtype)
            and isinstance(state, tuple)
            and len(state) >= 8
            and not any(state[2:5])
        ):
            target.name = str(state[1]) + target.name.lstrip("<|=")
        else:
            raise _Refused("it sets the state of something that is no array")


def _called(word: _Word, arguments: tuple[Any, ...]) -> Any:
    """What a name gives for its arguments; each has one form only."""
    if word is _Word.RECONSTRUCT and len(arguments) == 3 and arguments[0] is _Word.NDARRAY:
        return _Array()
    if word is _Word.DTYPE and arguments and isinstance(arguments[0], str):
        return _Dtype(arguments[0])
    if word is _Word.ENCODE and arguments[1:] in (("latin1",), ("latin-1",)):
        text = arguments[0]
        if isinstance(text, str):
            return text.encode("latin1")
        if isinstance(text, _Span) and text.text:
            return text
    if word is _Word.BYTES and not arguments:
        return b""
    if word is _Word.TUPLE and len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        return tuple(arguments[0])
    if word is _Word.ORDERED_DICT and not arguments:
        return {}
    raise _Refused(f"it calls {word.value} in a way that makes no array")


def _filled(state: Any) -> PickledArray:
    """An array of its pickled state: (version, shape, dtype, whether Fortran's order, bytes)."""
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, _Dtype) or not _DTYPE.fullmatch(dtype.name) or not _is_bytes(data):
        raise _Refused(f"an array has the dtype {getattr(dtype, 'name', dtype)!r} or holds no bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array has the shape {shape!r}")
    kind = np.dtype(dtype.name)
    needed = kind.itemsize
    for n in shape:
        needed *= n
    if isinstance(data, _Span):
        size = len(data.read()) if data.text else data.length
    else:
        size = len(data)
    if needed != size:
        raise ValueError(f"an array of shape {shape} needs {needed} bytes and has {size}")
    return PickledArray(kind, shape, (data,), bool(fortran))


def _is_bytes(data: Any) -> bool:
    return isinstance(data, (bytes, _Span))


def _arrays(found: Any) -> dict[str, PickledArray]:
    """The dict of arrays that a file's object stands for; arrays that were cut up are put together."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__.strip('_')}, expected a dict of arrays")
    cut = found.pop(BIG_SLICES, {})
    found.pop(PARAMETER_NAMES, None)
    arrays: dict[str, PickledArray] = {}
    for name, value in found.items():
        one = value[1] if isinstance(value, tuple) and len(value) == 2 else value  # (inner name, array)
        if not isinstance(name, str) or not isinstance(one, _Array) or one.filled is None:
            raise ValueError(f"{str(name)[:60]} is no array")
        arrays[name] = one.filled
    for name, about in cut.items():
        arrays[name] = _joined(name, [arrays.pop(part) for part in about["slices"]], about["OriginShape"])
    return arrays


def _joined(name: str, parts: list[PickledArray], shape: Any) -> PickledArray:
    """An array that was cut up, each part a row of its numbers."""
    whole = PickledArray(parts[0].dtype, tuple(shape), tuple(one for part in parts for one in part.pieces))
    sizes = [math.prod(part.shape) for part in parts]
    if any(part.dtype != whole.dtype or len(part.shape) > 1 for part in parts):
        raise ValueError(f"{name[:60]} is cut into parts of several kinds")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != sum(sizes):
        raise ValueError(f"{name[:60]} of shape {shape!r} is cut into {sum(sizes)} numbers")
    return whole


_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NOTHING = ("PROTO", "FRAME")
_TABLE: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.push(_Mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "TUPLE": lambda m, _: m.push(tuple(m.group())),
    "LIST": lambda m, _: m.push(m.group()),
    "TUPLE1": lambda m, _: m.push(m.last(1)),
    "TUPLE2": lambda m, _: m.push(m.last(2)),
    "TUPLE3": lambda m, _: m.push(m.last(3)),
    "SETITEM": lambda m, _: m.put_items(list(m.last(2))),
    "SETITEMS": lambda m, _: m.put_items(m.group()),
    "APPEND": lambda m, _: m.append(list(m.last(1))),
    "APPENDS": lambda m, _: m.append(m.group()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    **{
        name: lambda m, place: m.memo.__setitem__(place, m.stack[-1])
        for name in ("PUT", "BINPUT", "LONG_BINPUT")
    },
    **{name: lambda m, place: m.push(m.memo[place]) for name in ("GET", "BINGET", "LONG_BINGET")},
}
