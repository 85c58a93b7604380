"""L1: memory: statistics, the limit, running out of it and going on."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np

from mix_core.conformance.case import RUNTIME, Case, Context, Mismatch, expect
from mix_core.conformance.closeness import require_equal
from mix_core.conformance.target import Target
from mix_core.device import simulate
from mix_core.device.profile import Capability

MiB = 1 << 20
SMALL = 256 * MiB
"""What a simulated device has while it is filled."""
HUGE = 1 << 46
"""Numbers that no memory holds."""


def conformance_cases(target: Target) -> list[Case]:
    stats = target.lacks(Capability.MEMORY_STATS)
    host = "the host's statistics are those of the whole process" if target.is_host else None
    limited = None if target.simulated else "memory is filled to its limit on a simulated device alone"
    rows = (
        (
            "stats/keys",
            "memory_stats gives allocated and peak, whole numbers not below 0",
            RUNTIME,
            _keys,
            stats,
        ),
        ("stats/grow", "64 MiB of tensors show as 64 MiB more", RUNTIME, _grow, stats or host),
        ("stats/fall", "memory that is let go shows as less", RUNTIME, _fall, stats or host),
        (
            "stats/peak",
            "peak is the most there was, and starts again when it is reset",
            RUNTIME,
            _peak,
            stats or host,
        ),
        ("stats/leak", "the same step 20 times leaves no memory behind", RUNTIME, _leak, stats or host),
        (
            "stats/device",
            "what the device itself counts agrees with the runtime",
            RUNTIME,
            _device,
            stats or limited,
        ),
        ("empty_cache", "after empty_cache the device still computes", RUNTIME, _empty_cache, None),
        ("properties", "properties name the device", RUNTIME, _properties, None),
        (
            "out/error",
            "too large a tensor raises MemoryError, and the process goes on",
            RUNTIME,
            _error,
            None,
        ),
        (
            "out/filled",
            "a full device raises MemoryError, and all of it can be used again",
            RUNTIME,
            _within_limit(_filled),
            limited,
        ),
        (
            "out/backward",
            "memory that ends in backward raises, and the next step is right",
            RUNTIME,
            _within_limit(_backward),
            limited,
        ),
        ("out/limit", "nearly all of the memory can be had", RUNTIME, _within_limit(_limit), limited),
    )
    return [
        Case(f"L1/memory/{name}", asks, group, run, unless=unless) for name, asks, group, run, unless in rows
    ]


def _allocated(context: Context) -> int:
    assert context.active is not None
    gc.collect()
    context.active.runtime.synchronize()
    return context.active.runtime.memory_stats()["allocated"]


def _keys(context: Context) -> None:
    assert context.active is not None
    stats = context.active.runtime.memory_stats()
    wrong = {
        k: stats.get(k) for k in ("allocated", "peak") if not isinstance(stats.get(k), int) or stats[k] < 0
    }
    expect(not wrong, f"memory_stats gives {wrong}")
    expect(
        stats["peak"] >= stats["allocated"], f"peak {stats['peak']} is below allocated {stats['allocated']}"
    )


def _grow(context: Context) -> None:
    import paddle

    before = _allocated(context)
    kept = [paddle.ones([4 * MiB]) for _ in range(4)]
    grown = _allocated(context) - before
    expect(64 * MiB <= grown <= 66 * MiB, f"4 tensors of 16 MiB show as {grown / MiB:.2f} MiB more")
    del kept


def _fall(context: Context) -> None:
    import paddle

    before = _allocated(context)
    kept = [paddle.ones([4 * MiB]) for _ in range(4)]
    during = _allocated(context) - before
    expect(during > 63 * MiB, f"with 4 tensors of 16 MiB, {during / MiB:.2f} MiB more are counted")
    del kept
    after = _allocated(context) - before
    expect(abs(after) < MiB, f"after 4 tensors of 16 MiB are gone, {after / MiB:.2f} MiB more are counted")


def _peak(context: Context) -> None:
    import paddle

    assert context.active is not None
    runtime = context.active.runtime
    runtime.reset_peak_memory()
    before = _allocated(context)
    kept = paddle.ones([16 * MiB])
    del kept
    gc.collect()
    peak = runtime.memory_stats()["peak"] - before
    expect(64 * MiB <= peak <= 66 * MiB, f"a tensor of 64 MiB shows as a peak of {peak / MiB:.2f} MiB")
    runtime.reset_peak_memory()
    reset = runtime.memory_stats()["peak"] - before
    expect(reset < MiB, f"after the reset the peak is {reset / MiB:.2f} MiB above what is allocated")


def _leak(context: Context) -> None:
    import paddle

    weight = paddle.ones([512, 512])
    weight.stop_gradient = False

    def step() -> None:
        (paddle.ones([64, 512]) @ weight).sum().backward()
        weight.clear_gradient(False)

    step()
    before = _allocated(context)
    for _ in range(20):
        step()
    left = _allocated(context) - before
    expect(left < MiB // 4, f"20 equal steps leave {left} bytes behind")


def _device(context: Context) -> None:
    """The allocator hands out of chunks, so that the device counts at least what the runtime does."""
    assert context.active is not None
    import paddle

    kept = paddle.ones([8 * MiB])
    inner = simulate.control().memory(context.active.index)["current"]
    outer = context.active.runtime.memory_stats()["allocated"]
    expect(inner >= outer > 0, f"the device counts {inner} bytes, the runtime {outer}")
    del kept


def _empty_cache(context: Context) -> None:
    import paddle

    assert context.active is not None
    x = paddle.ones([MiB])
    context.active.runtime.empty_cache()
    require_equal("x + 1", (x + 1.0).numpy(), np.full(MiB, 2.0, np.float32), "1048576 ones")


def _properties(context: Context) -> None:
    assert context.active is not None
    found = context.active.runtime.properties()
    expect(bool(str(found.get("name", "")).strip()), f"properties are {found}, without a name")


def _raises(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except MemoryError:
        return
    except Exception as error:
        raise Mismatch(
            f"{what} raised {type(error).__name__}, expected MemoryError: {str(error)[-200:]}"
        ) from error
    raise Mismatch(f"{what} raised nothing, expected MemoryError")


def _works(context: Context) -> None:
    import paddle

    found = (paddle.arange(1000, dtype="float32") * 2.0).numpy()
    require_equal("x * 2 after the error", found, np.arange(1000, dtype=np.float32) * 2, "numbers 0 to 999")


def _error(context: Context) -> None:
    import paddle

    for _ in range(2):
        _raises(lambda: paddle.ones([HUGE // 4]), f"a tensor of {HUGE} bytes")
        _works(context)


def _within_limit(run: Callable[[Context], None]) -> Callable[[Context], None]:
    """The case on a simulated device that has little memory for its time."""

    def limited(context: Context) -> None:
        assert context.active is not None
        control, index = simulate.control(), context.active.index
        gc.collect()
        context.active.runtime.empty_cache()
        before = control.memory(index)["limit"]
        control.set_memory_limit(index, SMALL)
        try:
            run(context)
        finally:
            control.set_memory_limit(index, before)

    return limited


def _fill(paddle) -> list:  # type: ignore[no-untyped-def,type-arg]
    """Tensors of 16 MiB until there is no room."""
    kept = []
    try:
        for _ in range(64):
            kept.append(paddle.ones([4 * MiB]))
    except MemoryError:
        return kept
    raise Mismatch(f"1024 MiB went into a device of {SMALL // MiB} MiB")


def _filled(context: Context) -> None:
    import paddle

    counts = []
    for _ in range(3):
        kept = _fill(paddle)
        counts.append(len(kept))
        kept.pop()  # reading needs some room of its own
        require_equal("the first tensor", kept[0][:10].numpy(), np.ones(10, np.float32), "a full device")
        kept.clear()
        gc.collect()
    expect(min(counts) >= max(counts) - 1, f"tensors of 16 MiB that fit, time after time: {counts}")


def _limit(context: Context) -> None:
    import paddle

    kept = _fill(paddle)
    expect(
        len(kept) >= 13, f"{len(kept)} tensors of 16 MiB fit into {SMALL // MiB} MiB, at least 13 expected"
    )
    kept.clear()
    gc.collect()


def _backward(context: Context) -> None:
    import paddle

    x = paddle.ones([64])
    x.stop_gradient = False

    def step(rows: int) -> None:
        (x.expand([rows, 64]) * paddle.ones([rows, 64])).sum().backward()

    _raises(lambda: step(1 << 19), "a step of 128 MiB tensors")
    x.clear_gradient(False)
    gc.collect()
    step(3)
    require_equal(
        "the gradient after the error", x.grad.numpy(), np.full(64, 3.0, np.float32), "3 rows of 64 ones"
    )
