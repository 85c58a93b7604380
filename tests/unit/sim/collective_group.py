"""Groups of real processes that call the collectives, for tests: ctypes over csrc/tests/collective_driver.cc.

A rank is a process that runs a function by name; what it returns or raises comes back. Ranks are forked from
a server that has imported numpy and nothing of the tests, pytest or paddle, so they start clean and quickly.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

import numpy as np

from mix_core.device import native

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
)
REDUCTIONS = ("sum", "avg", "max", "min", "product")
WAIT_S = 20.0
Environment = Mapping[str, str]
NO_CHANGE: Environment = MappingProxyType({})


def dtype_number(name: str) -> int:
    return 1 + DTYPES.index(name)


def storage(name: str) -> np.dtype:
    """The numpy type that holds elements of a dtype; bfloat16 as its bits."""
    return np.dtype("uint16" if name == "bfloat16" else name)


@cache
def library_path() -> str:
    root = native.source_dir()
    assert root is not None
    sources = [*sorted((root / "sim").glob("collective*.cc")), root / "tests" / "collective_driver.cc"]
    return str(
        native.build("collective_driver", sources, [f"-I{root}", "-Wall", "-Wextra", "-Werror", "-pthread"])
    )


class Group:
    """One rank of a group; buffers are numpy arrays, dtypes names of DTYPES. Errors raise RuntimeError."""

    def __init__(self, library: str, rank: int, ranks: int, identity: bytes, limit_s: float = WAIT_S) -> None:
        self.driver = load(library)
        self.rank, self.ranks = rank, ranks
        self.handle = ctypes.c_void_p()
        self._check(
            self.driver.driver_join(
                identity, ctypes.c_size_t(rank), ctypes.c_size_t(ranks), ctypes.c_double(limit_s),
                ctypes.byref(self.handle),
            )
        )  # fmt: skip

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self.driver.driver_error().decode())

    @property
    def transport(self) -> str:
        return self.driver.driver_transport(self.handle).decode()

    def set_limit(self, seconds: float) -> None:
        self.driver.driver_set_limit(self.handle, ctypes.c_double(seconds))

    def leave(self) -> None:
        self.driver.driver_leave(self.handle)

    def all_reduce(self, send: np.ndarray, recv: np.ndarray, dtype: str, reduction: str = "sum") -> None:
        number = REDUCTIONS.index(reduction)
        count = ctypes.c_size_t(send.size)
        self._check(
            self.driver.driver_all_reduce(
                self.handle, pointer(send), pointer(recv), count, dtype_number(dtype), number
            )
        )

    def reduce(
        self, send: np.ndarray, recv: np.ndarray | None, dtype: str, reduction: str, root: int
    ) -> None:
        self._check(
            self.driver.driver_reduce(
                self.handle, pointer(send), pointer(recv), ctypes.c_size_t(send.size), dtype_number(dtype),
                REDUCTIONS.index(reduction), ctypes.c_size_t(root),
            )
        )  # fmt: skip

    def broadcast(self, buffer: np.ndarray, dtype: str, root: int) -> None:
        size = ctypes.c_size_t(buffer.size)
        self._check(
            self.driver.driver_broadcast(
                self.handle, pointer(buffer), size, dtype_number(dtype), ctypes.c_size_t(root)
            )
        )

    def all_gather(self, send: np.ndarray, recv: np.ndarray, dtype: str) -> None:
        size = ctypes.c_size_t(send.size)
        self._check(
            self.driver.driver_all_gather(
                self.handle, pointer(send), pointer(recv), size, dtype_number(dtype)
            )
        )

    def reduce_scatter(self, send: np.ndarray, recv: np.ndarray, dtype: str, reduction: str = "sum") -> None:
        self._check(
            self.driver.driver_reduce_scatter(
                self.handle, pointer(send), pointer(recv), ctypes.c_size_t(send.size // self.ranks),
                dtype_number(dtype), REDUCTIONS.index(reduction),
            )
        )  # fmt: skip

    def all_to_all(self, send: Sequence[np.ndarray], recv: Sequence[np.ndarray], dtype: str) -> None:
        def three(arrays: Sequence[np.ndarray]) -> tuple[Any, Any, Any]:
            n = len(arrays)
            pointers = (ctypes.c_void_p * n)(*(a.ctypes.data for a in arrays))
            counts = (ctypes.c_size_t * n)(*(a.size for a in arrays))
            return pointers, counts, (ctypes.c_uint32 * n)(*[dtype_number(dtype)] * n)

        self._check(self.driver.driver_all_to_all(self.handle, *three(send), *three(recv)))

    def run(self, *transfers: tuple[str, np.ndarray, str, int]) -> None:
        """A group of ("send" or "recv", buffer, dtype, peer)."""
        n = len(transfers)
        self._check(
            self.driver.driver_run(
                self.handle,
                ctypes.c_size_t(n),
                (ctypes.c_int * n)(*(kind == "send" for kind, *_ in transfers)),
                (ctypes.c_void_p * n)(*(buffer.ctypes.data for _, buffer, _, _ in transfers)),
                (ctypes.c_size_t * n)(*(buffer.size for _, buffer, _, _ in transfers)),
                (ctypes.c_int * n)(*(dtype_number(dtype) for _, _, dtype, _ in transfers)),
                (ctypes.c_size_t * n)(*(peer for *_, peer in transfers)),
            )
        )

    def totals(self) -> dict[str, tuple[int, int]]:
        """(calls, bytes) by operation."""
        text = ctypes.create_string_buffer(4096)
        self.driver.driver_totals(self.handle, text, ctypes.c_size_t(4096))
        rows = (line.split() for line in text.value.decode().splitlines())
        return {name: (int(calls), int(size)) for name, calls, size in rows}


def pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    assert array is None or array.flags.c_contiguous
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def load(library: str) -> ctypes.CDLL:
    driver = ctypes.CDLL(library)
    driver.driver_error.restype = ctypes.c_char_p
    driver.driver_transport.restype = ctypes.c_char_p
    driver.driver_id_bytes.restype = ctypes.c_size_t
    return driver


def make_id(library: str) -> bytes:
    driver = load(library)
    identity = ctypes.create_string_buffer(driver.driver_id_bytes())
    if driver.driver_make_id(identity):
        raise RuntimeError(driver.driver_error().decode())
    return identity.raw


class Rank:
    """A rank as its parent sees it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection

    def answer(self, timeout_s: float = WAIT_S) -> Any:
        """What the rank reported next: a value, or the text of its error in an Error."""
        if not self.connection.poll(timeout_s):
            raise TimeoutError(f"process {self.process.pid} said nothing for {timeout_s} s")
        return self.connection.recv()


class Error(str):
    """Text of what a rank raised."""


def _main(
    connection: Connection, body: Callable, library: str, rank: int, ranks: int, env: dict, args: tuple
) -> None:
    os.environ.update(env)
    try:
        if rank == 0:
            connection.send(make_id(library))
        identity = connection.recv()
        connection.send(body(connection, library, rank, ranks, identity, *args))
    except Exception as error:
        connection.send(Error(f"{type(error).__name__}: {error}"))


@contextmanager
def started(
    body: Callable, ranks: int, *args: Any, env: Environment | Sequence[Environment] = NO_CHANGE
) -> Iterator[list[Rank]]:
    """Processes that run `body(connection, library, rank, ranks, identity, *args)`; none outlives the block.

    `env` is set in all of them, or a mapping a rank.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "numpy.random", "numpy.testing", "mix_core.device.native"])
    library = library_path()
    found = []
    try:
        for rank in range(ranks):
            here, there = context.Pipe()
            own = env if isinstance(env, Mapping) else env[rank]
            process = context.Process(target=_main, args=(there, body, library, rank, ranks, dict(own), args))
            process.start()
            there.close()
            found.append(Rank(process, here))
        identity = found[0].answer()
        if isinstance(identity, Error):
            raise RuntimeError(identity)
        for rank in found:
            rank.connection.send(identity)
        yield found
    finally:
        for rank in found:
            rank.process.kill()
            rank.process.join()


def run(
    body: Callable, ranks: int, *args: Any, env: Environment | Sequence[Environment] = NO_CHANGE
) -> list[Any]:
    """What `body` returned on each rank."""
    with started(body, ranks, *args, env=env) as group:
        answers = [rank.answer() for rank in group]
        for rank in group:
            rank.process.join(WAIT_S)
    return answers
