"""Arrays from one process to another through memory that has no name.

The sender writes into an anonymous memory file and passes its descriptor over a socket; the memory goes when
the last descriptor is closed. So a process that is killed leaves nothing behind, and no limit of /dev/shm
applies.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from typing import Any, NamedTuple

import numpy as np

_HEADER = struct.Struct("<Q")
_ALIGNMENT = 64


class ArrayPlace(NamedTuple):
    """Where an array lies in the memory."""

    start: int
    shape: tuple[int, ...]
    dtype: str


def write_arrays(arrays: list[np.ndarray]) -> tuple[int, list[ArrayPlace]]:
    """Copy arrays into new anonymous memory -> (its descriptor, which the caller closes, the places).

    Raises OSError when there is no memory left, before anything is written.
    """
    places, size = [], 0
    for array in arrays:
        places.append(ArrayPlace(size, array.shape, array.dtype.str))
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    size = max(size, _ALIGNMENT)
    descriptor = os.memfd_create("mix_core_data", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)  # without this, a lack of memory ends the process by a signal
        with mmap.mmap(descriptor, size) as memory:
            for array, place in zip(arrays, places):
                view = np.ndarray(place.shape, place.dtype, buffer=memory, offset=place.start)
                view[...] = array
                del view  # the memory cannot be closed while a view exists
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, places


def read_arrays(descriptor: int, places: list[ArrayPlace]) -> list[np.ndarray]:
    """Copy the arrays out of the memory."""
    with mmap.mmap(descriptor, os.fstat(descriptor).st_size, prot=mmap.PROT_READ) as memory:
        return [_copied(memory, place) for place in places]


def _copied(memory: mmap.mmap, place: ArrayPlace) -> np.ndarray:
    return np.ndarray(place.shape, place.dtype, buffer=memory, offset=place.start).copy()


class Channel:
    """Messages between a process and a worker that it started itself; a message may carry a descriptor."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: Any, descriptor: int | None = None) -> None:
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        header = _HEADER.pack(len(body))
        descriptors = [] if descriptor is None else [descriptor]
        sent = socket.send_fds(self._end, [header], descriptors)
        self._end.sendall(header[sent:] + body)

    def receive(self) -> tuple[Any, int | None]:
        """The next message and its descriptor, which the caller closes. EOFError: the other side is gone."""
        try:
            header, descriptors, _, _ = socket.recv_fds(self._end, _HEADER.size, 1)
        except ConnectionResetError:
            header, descriptors = b"", []
        if not header:
            raise EOFError
        header += self._exactly(_HEADER.size - len(header))
        body = self._exactly(_HEADER.unpack(header)[0])
        return pickle.loads(body), descriptors[0] if descriptors else None

    def close(self) -> None:
        self._end.close()

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._end.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
