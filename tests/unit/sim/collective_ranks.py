"""What the ranks of test_collective*.py do. Every rank knows all ranks' inputs, so each checks itself."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.unit.sim.collective_group import DTYPES, REDUCTIONS, Group, make_id, storage

MIB = 1 << 20
COUNTS = (1, 2503)


def widen(values: np.ndarray, dtype: str) -> np.ndarray:
    """In what a reduction of the dtype is done: float32 for 16-bit floats, 64 bits for integers."""
    if dtype == "bfloat16":
        return (values.astype("uint32") << 16).view("float32")
    if dtype == "float16":
        return values.astype("float32")
    kind = values.dtype.kind
    return values.astype({"i": "int64", "u": "uint64"}.get(kind, values.dtype))


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round to the dtype once, half to even."""
    if dtype != "bfloat16":
        return values.astype(storage(dtype))
    bits = values.view("uint32").astype("uint64")
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")
    return np.where(np.isnan(values), (bits >> 16).astype("uint16") | 0x40, rounded).astype("uint16")


def reduced(inputs: list[np.ndarray], dtype: str, reduction: str) -> np.ndarray:
    """The definition: one after the other in the order of ranks."""
    if dtype == "bool":
        combine = np.logical_or if reduction in ("sum", "max") else np.logical_and
        return combine.reduce(inputs)
    combine = {"max": np.maximum, "min": np.minimum, "product": np.multiply}.get(reduction, np.add)
    total = widen(inputs[0], dtype)
    for values in inputs[1:]:
        total = combine(total, widen(values, dtype))
    if reduction == "avg" and total.dtype.kind in "iu":
        total = np.trunc(total / len(inputs)).astype(total.dtype)
    elif reduction == "avg":
        total = total / total.real.dtype.type(len(inputs))
    return narrow(total, dtype)


def draw(dtype: str, count: int, rank: int) -> np.ndarray:
    random = np.random.default_rng((DTYPES.index(dtype), count, rank))
    if dtype == "bool":
        return random.integers(0, 2, count).astype("bool")
    if dtype == "bfloat16":
        return narrow(random.normal(0, 3, count).astype("float32"), dtype)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        low = -100 if kind.kind == "i" else 0
        return random.integers(low, 120, count).astype(kind)
    values = random.normal(0, 3, count)
    if kind.kind == "c":
        values = values + 1j * random.normal(0, 3, count)
    return values.astype(kind)


def same(found: np.ndarray, expected: np.ndarray, what: object) -> None:
    assert found.dtype == expected.dtype, what
    if found.dtype.kind == "c":  # a compiler may contract a complex product
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=str(what))
    else:
        np.testing.assert_array_equal(found, expected, err_msg=str(what))


def reductions(dtype: str) -> list[str]:
    refused = {"bool": {"avg"}, "complex64": {"max", "min"}, "complex128": {"max", "min"}}.get(dtype, set())
    return [name for name in REDUCTIONS if name not in refused]


def _reductions(group: Group, dtype: str, count: int, names: list[str], digest: hashlib._Hash) -> None:
    everyone = [draw(dtype, count * group.ranks, rank) for rank in range(group.ranks)]
    own = everyone[group.rank]
    root = count % group.ranks
    for name in names:
        what = (dtype, count, name)
        expected = reduced(everyone, dtype, name)
        found = np.zeros_like(own)
        group.all_reduce(own, found, dtype, name)
        same(found, expected, ("all_reduce", *what))
        digest.update(found.tobytes())
        found = own.copy()
        group.all_reduce(found, found, dtype, name)
        same(found, expected, ("all_reduce in place", *what))
        found = np.zeros_like(own) if group.rank == root else None
        group.reduce(own, found, dtype, name, root)
        if found is not None:
            same(found, expected, ("reduce", *what))
        part = np.zeros(count, own.dtype)
        group.reduce_scatter(own, part, dtype, name)
        same(part, expected[group.rank * count :][:count], ("reduce_scatter", *what))
        found = own.copy()
        part = found[group.rank * count :][:count]
        group.reduce_scatter(found, part, dtype, name)
        same(part, expected[group.rank * count :][:count], ("reduce_scatter in place", *what))


def _movements(group: Group, dtype: str, count: int) -> None:
    everyone = [draw(dtype, count, rank) for rank in range(group.ranks)]
    own = everyone[group.rank]
    for root in range(group.ranks):
        found = own.copy()
        group.broadcast(found, dtype, root)
        same(found, everyone[root], ("broadcast", dtype, count, root))
    gathered = np.concatenate(everyone)
    found = np.zeros_like(gathered)
    group.all_gather(own, found, dtype)
    same(found, gathered, ("all_gather", dtype, count))
    found = np.zeros_like(gathered)
    part = found[group.rank * count :][:count]
    part[:] = own
    group.all_gather(part, found, dtype)
    same(found, gathered, ("all_gather in place", dtype, count))
    # from rank r to rank p: count + r - p elements (never below nothing)
    sizes = [[max(0, count + r - p) for p in range(group.ranks)] for r in range(group.ranks)]
    send = [np.resize(own, sizes[group.rank][p]) for p in range(group.ranks)]
    recv = [np.zeros(sizes[r][group.rank], own.dtype) for r in range(group.ranks)]
    group.all_to_all(send, recv, dtype)
    for r, found in enumerate(recv):
        same(found, np.resize(everyone[r], found.size), ("all_to_all", dtype, count, r))


def _messages(group: Group, dtype: str, count: int) -> None:
    """A ring both ways, and a message to itself, in one group."""
    before, after = (group.rank - 1) % group.ranks, (group.rank + 1) % group.ranks
    own = draw(dtype, count, group.rank)
    found = [np.zeros_like(own) for _ in range(3)]
    group.run(
        ("recv", found[0], dtype, before),
        ("send", own, dtype, after),
        ("recv", found[1], dtype, after),
        ("send", own, dtype, before),
        ("send", own, dtype, group.rank),
        ("recv", found[2], dtype, group.rank),
    )
    for peer, values in zip((before, after, group.rank), found, strict=True):
        same(values, draw(dtype, count, peer), ("send and recv", dtype, count, peer))


def everything(
    connection: Connection, library: str, rank: int, ranks: int, identity: bytes
) -> tuple[str, str, int]:
    """All operations in all dtypes; (transport, digest of the reductions, open files left)."""
    files = len(os.listdir("/proc/self/fd")) - 2 * (rank == 0)  # the id's memory and socket go too
    threads = threading_count()
    group = Group(library, rank, ranks, identity)
    digest = hashlib.sha256()
    for dtype in DTYPES:
        for count in COUNTS:
            _reductions(group, dtype, count, reductions(dtype), digest)
            _movements(group, dtype, count)
            _messages(group, dtype, count)
    for dtype in ("float32", "bfloat16"):  # over several rounds, and not a multiple of anything
        _reductions(group, dtype, 150_007, ["avg"], digest)
        _movements(group, dtype, 300_011)
    transport = group.transport
    group.leave()
    assert threading_count() == threads
    return transport, digest.hexdigest(), len(os.listdir("/proc/self/fd")) - files


def threading_count() -> int:
    return len(os.listdir("/proc/self/task"))


def half_precision(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> int:
    """Every 16-bit pattern through the rounding: x + 0 is x, infinities, NaN and subnormals included."""
    group = Group(library, rank, ranks, identity)
    bits = np.arange(1 << 16, dtype="uint16")
    for dtype in ("float16", "bfloat16"):
        own = bits if rank == 0 else np.zeros_like(bits)
        found = np.zeros_like(bits)
        group.all_reduce(own, found, dtype)
        as_float = [widen(x.view("float16") if dtype == "float16" else x, dtype) for x in (bits, found)]
        np.testing.assert_array_equal(as_float[1], as_float[0])
    # a sum that two roundings get wrong: 1 + 2^-11 + 2^-11 is 1 + 2^-10
    small = np.array([1.0 if rank == 0 else 2.0**-11], "float16")
    group.all_reduce(small, small, "float16")
    group.leave()
    return int(small.view("uint16")[0])


def big_messages(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> list[str]:
    """8 MB to every peer before anything is received, three times over; then what was freed."""
    group = Group(library, rank, ranks, identity)
    count = 2 * MIB
    peers = [peer for peer in range(ranks) if peer != rank]
    for turn in range(3):
        sent = [np.full(count, 100 * turn + 10 * rank + peer, "float32") for peer in peers]
        found = [np.zeros(count, "float32") for _ in peers]
        group.run(
            *(("send", values, "float32", peer) for peer, values in zip(peers, sent, strict=True)),
            *(("recv", values, "float32", peer) for peer, values in zip(peers, found, strict=True)),
        )
        for peer, values in zip(peers, found, strict=True):
            assert (values == 100 * turn + 10 * peer + rank).all()
    group.all_reduce(np.zeros(1, "float32"), np.zeros(1, "float32"), "float32")  # all have received
    held = [
        os.stat(path).st_blocks * 512
        for path in Path("/proc/self/fd").iterdir()
        if "memfd:mix-sim" in link(path)
    ]
    group.leave()
    return [f"{size / MIB:.1f}" for size in held]


def link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def interleaved(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> int:
    """Order between two ranks holds over many sizes; a receive waits in a thread while collectives go on."""
    group = Group(library, rank, ranks, identity)
    before, after = (rank - 1) % ranks, (rank + 1) % ranks
    late = np.zeros(5, "int64")
    waiting = threading.Thread(target=lambda: group.run(("recv", late, "int64", after)))
    waiting.start()
    total = np.ones(3, "int64")
    for size in (1, 3000, 5, 100_000, 17, 2, 500_000):
        group.run(*(("send", np.full(size, rank * 10 + i, "int32"), "int32", after) for i in range(3)))
        group.all_reduce(total, total, "int64")
        for i in range(3):
            found = np.zeros(size, "int32")
            group.run(("recv", found, "int32", before))
            assert (found == before * 10 + i).all()
    group.run(("send", np.full(5, rank, "int64"), "int64", before))
    waiting.join()
    assert (late == after).all()
    group.leave()
    return int(total[0])


def dies(
    connection: Connection, library: str, rank: int, ranks: int, identity: bytes, operation: str
) -> tuple[str, float, str]:
    """The last rank is killed: what the others see of it, after how long, and once more.

    Every rank sends its process first, and goes on when it is told that all are through the first collective:
    one that is still in it may hear of the death there.
    """
    group = Group(library, rank, ranks, identity)
    values = np.ones(MIB, "float32")
    group.all_reduce(values, values, "float32")
    connection.send(os.getpid())
    connection.recv()
    if rank == ranks - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    calls = {
        "all_reduce": lambda: group.all_reduce(values, values, "float32"),
        "recv": lambda: group.run(("recv", values, "float32", ranks - 1)),
    }
    first = text_of(calls[operation])
    seconds = time.monotonic() - start
    again = text_of(lambda: group.broadcast(values, "float32", 0))
    group.leave()
    return first, seconds, again


def text_of(call: object) -> str:
    try:
        call()  # type: ignore[operator]
    except RuntimeError as error:
        return str(error)
    return "no error"


def killed_within(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> str:
    """All_reduce for ever; the parent kills."""
    group = Group(library, rank, ranks, identity)
    values = np.zeros(4 * MIB, "float32")
    pending = np.zeros(MIB, "float32")
    group.run(("send", pending, "float32", (rank + 1) % ranks))  # never received
    connection.send(os.getpid())
    while True:
        group.all_reduce(values, values, "float32")


def silent(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> tuple[str, float]:
    """The last rank lives and does not come; the others' limit is shorter than its sleep."""
    group = Group(library, rank, ranks, identity)
    group.set_limit(0.4)
    values = np.ones(MIB, "float32")
    if rank == ranks - 1:
        time.sleep(1.5)
        return text_of(lambda: group.all_reduce(values, values, "float32")), 0.0
    start = time.monotonic()
    text = text_of(lambda: group.all_reduce(values, values, "float32"))
    return text, time.monotonic() - start


def mismatched(
    connection: Connection, library: str, rank: int, ranks: int, identity: bytes
) -> dict[str, str]:
    """The last rank calls something else, each time in a new group: what this rank is told."""
    first = Group(library, rank, ranks, identity)
    values = np.zeros(100, "float32")
    is_odd = rank == ranks - 1

    def operation(group: Group) -> None:
        if is_odd:
            group.broadcast(values, "float32", 0)
        else:
            group.all_reduce(values, values, "float32")

    def all_to_all(group: Group) -> None:
        found = [np.zeros(9 if is_odd else 10, "float32") for _ in range(ranks)]
        group.all_to_all([values[:10]] * ranks, found, "float32")
        group.all_reduce(values, values, "float32")

    def message(group: Group) -> None:
        if is_odd:
            group.run(("recv", values[:50], "float32", 0))
        elif rank == 0:
            group.run(("send", values, "float32", ranks - 1))
        group.all_reduce(values, values, "float32")

    calls = {
        "operation": operation,
        "count": lambda group: group.all_reduce(values[: 99 if is_odd else 100], values, "float32"),
        "dtype": lambda group: group.all_reduce(values, values, "int32" if is_odd else "float32"),
        "reduction": lambda group: group.all_reduce(values, values, "float32", "max" if is_odd else "sum"),
        "root": lambda group: group.broadcast(values, "float32", 1 if is_odd else 0),
        "all_to_all": all_to_all,
        "message": message,
    }
    found = {}
    for name, call in calls.items():
        group = another(first, library)
        found[name] = text_of(partial(call, group))
        first.all_reduce(np.zeros(1), np.zeros(1), "float64")  # no one leaves before all have seen it
        group.leave()
    return found


def another(group: Group, library: str) -> Group:
    """A second group of the same ranks."""
    identity = np.frombuffer(make_id(library), "uint8").copy()
    group.broadcast(identity, "uint8", 0)
    return Group(library, group.rank, group.ranks, identity.tobytes())


def leaves(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> tuple[bool, str]:
    """Rank 1 sends and leaves: its message arrives, a later call says that it is gone."""
    group = Group(library, rank, ranks, identity)
    values = np.full(MIB, 7.0, "float32")
    if rank == 1:
        group.run(("send", values, "float32", 0))
        group.leave()
        return True, ""
    found = np.zeros_like(values)
    time.sleep(0.2)
    group.run(("recv", found, "float32", 1))
    return bool((found == 7).all()), text_of(lambda: group.all_reduce(values, values, "float32"))


def forks(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> tuple[int, float]:
    """A forked child drops its copy of the group; the exit code of the child, and a sum after it."""
    group = Group(library, rank, ranks, identity)
    child = os.fork()
    if child == 0:
        group.leave()
        os._exit(5)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    values = np.ones(1, "float32")
    for _ in range(3):
        time.sleep(0.1 * rank)  # the others look after this rank
        group.all_reduce(values, values, "float32")
    group.leave()
    return code, float(values[0])


def refused(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> str:
    group = Group(library, rank, ranks, identity)
    values = np.zeros(4, "complex64")
    text = text_of(lambda: group.all_reduce(values, values, "complex64", "max"))
    time.sleep(0.2)
    return text


def counted(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> dict:
    group = Group(library, rank, ranks, identity)
    values = np.zeros(1024, "float32")
    for _ in range(3):
        group.all_reduce(values, values, "float32")
    group.broadcast(values, "float32", 0)
    group.run(("send", values[:4], "float32", rank), ("recv", values[:4], "float32", rank))
    return group.totals()


def joins(
    connection: Connection, library: str, rank: int, ranks: int, identity: bytes, limit_s: float
) -> str:
    """Which transport, or why not."""
    if rank == ranks - 1 and limit_s:
        time.sleep(10)  # the parent ends it
        return "slept"
    try:
        group = Group(library, rank, ranks, identity, limit_s or 20.0)
    except RuntimeError as error:
        return str(error)
    values = np.full(3, rank, "int32")
    group.all_reduce(values, values, "int32")
    assert values.tolist() == [ranks * (ranks - 1) // 2] * 3
    return group.transport


def timed(connection: Connection, library: str, rank: int, ranks: int, identity: bytes, times: int) -> float:
    """Seconds of one all_reduce of 64 MiB, the best of some."""
    group = Group(library, rank, ranks, identity)
    values = np.zeros(16 * MIB, "float32")
    found = np.zeros_like(values)
    seconds = []
    for _ in range(times):
        start = time.monotonic()
        group.all_reduce(values, found, "float32")
        seconds.append(time.monotonic() - start)
    group.leave()
    return min(seconds)


def joins_without_memory(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> str:
    """To rank 1 the id's file number means nothing, as in another process namespace."""
    place = slice(40, 44)  # after 8 bytes magic, 16 token, 16 process
    hidden = identity[: place.start] + (9999).to_bytes(4, "little") + identity[place.stop :]
    return joins(connection, library, rank, ranks, hidden if rank == 1 else identity, 0.0)


def joins_by_default(connection: Connection, library: str, rank: int, ranks: int, identity: bytes) -> str:
    """With the limit from the environment."""
    Group(library, rank, ranks, identity, 0.0)
    return "joined"
