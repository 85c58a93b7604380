"""A data worker: a process that encodes rows into samples. Never imports paddle.

Started by `workers.WorkerPool` as a new interpreter, not forked and not through multiprocessing, which would
import the user's main module, and paddle with it. It ends when the other end of its socket is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mix_core.data.shared_memory import Channel, read_arrays, write_arrays
from mix_core.data.truncation import truncated
from mix_core.errors import BadInputError, DataError, MixError

Sample = dict[str, np.ndarray]
MakeProcessor = Callable[[], Any]
"""Makes a model family's processor; it is pickled, so a function of a module or a partial of one."""

SENT = ("messages", "source", "chat_template", "max_dynamic_patch")
"""What a worker is told of a row."""
_NARROW = ("input_ids", "labels", "position_ids")


class Failure(NamedTuple):
    """An exception, as it travels between processes."""

    kind: str
    """Name of the class; one of `mix_core.errors` where `deliberate`."""
    message: str
    deliberate: bool
    trace: str


def encode_row(processor: Any, row: dict[str, Any], options: dict[str, Any]) -> Sample | None:
    """One sample, None where it is too long and skipped. Token arrays become int32: half the bytes.

    Raises DataError that names the row, for whatever in it cannot be used.
    """
    is_cut = options["on_too_long"] == "truncate"
    asked = {**options, "max_length": None, "on_too_long": "error"} if is_cut else options
    processor = for_row(processor, row)
    try:
        sample = processor.encode(row["messages"], describe=row["source"], **asked)
        if sample is None:
            return None
        if is_cut:
            sample = truncated(sample, options["max_length"], processor, row["source"])
    except DataError:
        raise
    except BadInputError as error:  # of a part that knows no rows, as the chat template
        raise DataError(f"{row['source']}: {error}") from error
    return {key: value.astype(np.int32) if key in _NARROW else value for key, value in sample.items()}


def for_row(processor: Any, row: dict[str, Any]) -> Any:
    """The processor with the chat template and the most tiles of the row's set, where that has its own.

    Raises ConfigError for tiles that the model does not cut.
    """
    name, tiles = row.get("chat_template"), row.get("max_dynamic_patch")
    if tiles is not None:
        processor = processor.with_tiles(tiles)
    return processor if name is None else processor.with_template(name)


def failure_of(error: Exception) -> Failure:
    trace = "".join(traceback.format_exception(error))
    return Failure(type(error).__name__, str(error), isinstance(error, MixError), trace)


def main(descriptor: int) -> None:
    """Serve on the socket with this descriptor until its other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which closes us
    channel = Channel(socket.socket(fileno=descriptor))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(channel)


def _serve(channel: Channel) -> None:
    (make_processor, options), _ = channel.receive()
    try:
        processor = make_processor()
        if "paddle" in sys.modules:
            raise RuntimeError("making the processor imported paddle; a data worker must not")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported where it can be acted on
        channel.send(failure_of(error))
        return
    channel.send(None)
    while True:
        rows, _ = channel.receive()
        _answer(channel, [_encoded(processor, row, options) for row in rows])


def _encoded(processor: Any, row: dict[str, Any], options: dict[str, Any]) -> Sample | Failure | None:
    try:
        return encode_row(processor, row, options)
    except Exception as error:  # noqa: BLE001 - as above
        return failure_of(error)


def _answer(channel: Channel, results: list[Sample | Failure | None]) -> None:
    """Send for every row its Failure, None or the names of its arrays, and all arrays in one memory."""
    arrays = [array for result in results if isinstance(result, dict) for array in result.values()]
    outline = [list(result) if isinstance(result, dict) else result for result in results]
    try:
        descriptor, places = write_arrays(arrays)
    except OSError as error:
        size = sum(array.nbytes for array in arrays)
        failure = failure_of(MemoryError(f"{size} bytes of samples find no shared memory: {error.strerror}"))
        channel.send(([failure] * len(results), []))
        return
    try:
        channel.send((outline, places), descriptor)
    finally:
        os.close(descriptor)


def receive_answer(channel: Channel) -> list[Sample | Failure | None]:
    """The other side of `_answer`."""
    (outline, places), descriptor = channel.receive()
    if descriptor is None:
        return outline
    try:
        arrays = iter(read_arrays(descriptor, places))
    finally:
        os.close(descriptor)
    return [{name: next(arrays) for name in entry} if isinstance(entry, list) else entry for entry in outline]
