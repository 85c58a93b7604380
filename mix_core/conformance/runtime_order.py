"""L1: streams, events and threads."""

from __future__ import annotations

import threading

import numpy as np

from mix_core.conformance.case import RUNTIME, Case, Context, Mismatch, expect
from mix_core.conformance.closeness import require_close, require_equal
from mix_core.conformance.target import Target
from mix_core.device import simulate
from mix_core.device.profile import Capability

THREADS, ROUNDS = 4, 25
N = 256


def conformance_cases(target: Target) -> list[Case]:
    streams, events = target.lacks(Capability.STREAMS), target.lacks(Capability.EVENTS)
    simulated = None if target.simulated else "only the simulator tells the order of its streams"
    return [
        Case(
            "L1/order/synchronize",
            "synchronize returns when all work is done, again and again",
            RUNTIME,
            _synchronize,
        ),
        Case("L1/order/chain", "200 dependent operators see each other's results", RUNTIME, _chain),
        Case(
            "L1/order/copy_after_kernel",
            "a copy to the host sees the kernel before it",
            RUNTIME,
            _copy_after_kernel,
        ),
        Case(
            "L1/order/streams",
            "work on a second stream gives the right numbers",
            RUNTIME,
            _streams,
            unless=streams,
        ),
        Case(
            "L1/order/late_stream",
            "results are right when a stream is late",
            RUNTIME,
            _late,
            unless=streams or simulated,
        ),
        Case(
            "L1/order/event",
            "a stream that waits for an event comes after it",
            RUNTIME,
            _event,
            unless=events or streams or simulated,
        ),
        Case("L1/order/event_time", "events can be recorded and waited for", RUNTIME, _record, unless=events),
        Case("L1/threads/compute", "threads that compute at once get their own numbers", RUNTIME, _threads),
        Case(
            "L1/threads/backward",
            "threads that go backward at once get their own gradients",
            RUNTIME,
            _threads_backward,
        ),
    ]


def _synchronize(context: Context) -> None:
    assert context.active is not None
    import paddle

    for _ in range(5):
        x = paddle.ones([N, N])
        (x @ x).sum()
        context.active.runtime.synchronize()


def _chain(context: Context) -> None:
    import paddle

    x = paddle.zeros([1000])
    for _ in range(200):
        x = x + 1.0
    require_equal("the sum of 200 ones", x.numpy(), np.full(1000, 200.0, np.float32), "1000 numbers")


def _copy_after_kernel(context: Context) -> None:
    import paddle

    rng = np.random.default_rng(0)
    for i in range(10):
        a = rng.standard_normal((N, N)).astype(np.float32)
        found = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(a)).numpy()
        require_close(
            context, f"product {i}", found, a.astype(np.float64) @ a, 5e-6, f"a normal ({N}, {N}) matrix"
        )


def _streams(context: Context) -> None:
    import paddle

    assert context.active is not None
    place = context.active.place
    x = paddle.arange(1 << 16, dtype="float32")
    stream = paddle.device.Stream(place)
    with paddle.device.stream_guard(stream):
        y = x * 2.0
    stream.synchronize()
    require_equal("the product", y.numpy(), 2.0 * np.arange(1 << 16, dtype=np.float32), "numbers 0 to 65535")


def _late(context: Context) -> None:
    import paddle

    array = np.arange(1 << 16, dtype=np.float32)
    source = paddle.to_tensor(array)
    simulate.add_faults("stream:stall,ms=50")
    try:
        later = paddle.to_tensor(array) + source
        found = later.numpy()
    finally:
        simulate.clear_faults()
    require_equal("the sum", found, array * 2, "numbers 0 to 65535, streams 50 ms late")


def _event(context: Context) -> None:
    expect(
        simulate.control().event_orders(),
        "work queued after an event ran before it: the event was not recorded",
    )


def _record(context: Context) -> None:
    import paddle

    assert context.active is not None
    stream = paddle.device.current_stream(context.active.place)
    event = stream.record_event()
    stream.synchronize()
    expect(bool(event.query()), "an event is not done after its stream was synchronized")


def _in_threads(work) -> None:  # type: ignore[no-untyped-def]
    failures: list[str] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 (it is told below)
            failures.append(f"thread {number}: {error}")

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Mismatch(f"{len(failures)} of {THREADS} threads failed; {failures[0]}")


def _threads(context: Context) -> None:
    import paddle

    def work(number: int) -> None:
        for i in range(ROUNDS):
            value = float(number * 1000 + i)
            x = paddle.full([4096], value)
            require_equal(
                "x + 1", (x + 1.0).numpy(), np.full(4096, value + 1.0, np.float32), f"4096 times {value}"
            )

    _in_threads(work)


def _threads_backward(context: Context) -> None:
    import paddle

    def work(number: int) -> None:
        for i in range(5):
            x = paddle.full([257], float(number + i))
            x.stop_gradient = False
            (x * x).sum().backward()
            wanted = np.full(257, 2.0 * (number + i), np.float32)
            require_equal("the gradient of x * x", x.grad.numpy(), wanted, f"257 times {number + i}")

    _in_threads(work)
