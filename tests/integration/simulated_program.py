"""What a program sees on a simulated device, as one JSON object; test_simulated_device.py runs it.

It writes facts only; the tests judge them.
"""

from __future__ import annotations

import json
import threading
import time

import mix_core.device as device
from mix_core.device import simulate


def attempt(action) -> str:
    """The kind and the words of the error that `action` raises, or an empty text."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def memory_facts(paddle, control) -> dict:
    before = control.memory(0)["current"]
    tensor = paddle.ones([1 << 20])
    held = control.memory(0)["current"] - before
    error = attempt(lambda: paddle.ones([1 << 29]))
    inside = paddle.ones([64], dtype="float32")
    inside.stop_gradient = False
    in_backward = attempt(
        lambda: (inside.expand([1 << 14, 64]) * paddle.ones([1 << 14, 64])).sum().backward()
    )
    second = attempt(lambda: paddle.ones([1 << 29]))
    return {
        "held": held,
        "error": error,
        "second": second,
        "in_backward": in_backward,
        "after": float((tensor + 1).sum()),
        "limit": control.memory(0)["limit"],
        "allocated": paddle.device.memory_allocated("npu:0"),
    }


def thread_facts(paddle, control) -> dict:
    """Two threads use a device each at the same time; what each asks for lies on its own."""
    before = [control.memory(index)["current"] for index in (0, 1)]
    kept: dict[int, list] = {0: [], 1: []}
    wrong: list[str] = []

    def work(index: int) -> None:
        place = paddle.CustomPlace("npu", index)
        for number in range(32):
            tensor = paddle.full([4096], float(number), dtype="float32").to(place)
            kept[index].append(tensor)
            if str(tensor.place) != f"Place(npu:{index})" or float(tensor[7]) != number:
                wrong.append(f"thread {index}, tensor {number}: {tensor.place}")

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown = {index: control.memory(index)["current"] - before[index] for index in (0, 1)}
    return {"wrong": wrong, "grown": grown}


def peer_facts(paddle, control) -> dict:
    """A copy to the other device has its numbers, though its source's memory is written again at once."""
    control.add_faults("stream:stall,ms=100")
    source = paddle.full([4096], 3.0)
    address = source.data_ptr()
    copied = source.to(paddle.CustomPlace("npu", 1))
    del source
    written = paddle.full([4096], 4.0)
    control.clear_faults()
    return {"reused": written.data_ptr() == address, "copied": float(copied[7]), "written": float(written[7])}


def stream_facts(paddle, control) -> dict:
    """A stalled stream returns at once, and synchronising waits for it."""
    source = paddle.arange(1 << 16, dtype="float32")
    control.add_faults("stream:stall,ms=300")
    started = time.monotonic()
    stream = paddle.device.Stream("npu:0") if hasattr(paddle.device, "Stream") else None
    event = None
    if stream is not None:
        event = stream.record_event()
    queued = time.monotonic() - started
    paddle.device.synchronize("npu:0")
    waited = time.monotonic() - started
    control.clear_faults()
    return {"queued": queued, "waited": waited, "sum": float(source.sum()), "event": event is not None}


def half_facts(paddle) -> dict:
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 64, 64)).astype(np.float32)
    facts = {}
    for dtype in ("bfloat16", "float16"):
        x, y = paddle.to_tensor(a).astype(dtype), paddle.to_tensor(b).astype(dtype)
        x.stop_gradient = False
        out = paddle.nn.functional.softmax(x @ y)
        out.astype("float32").square().sum().backward()
        wide = x.astype("float32").numpy() @ y.astype("float32").numpy()
        got = (x @ y).astype("float32").numpy()
        facts[dtype] = {
            "place": str(out.place),
            "gradient": [
                str(x.grad.dtype),
                str(x.grad.place),
                bool(np.isfinite(x.grad.astype("float32").numpy()).all()),
            ],
            "error": float(np.abs(got - wide).max() / np.abs(wide).max()),
        }
    return facts


def tracer_facts(paddle) -> dict:
    """An operator that reaches the old tracer keeps its outputs' place."""
    outputs = [paddle.empty([2, 4]), paddle.empty([2, 4])]
    source = paddle.arange(16, dtype="float32").reshape([4, 4])
    paddle.framework._dygraph_tracer().trace_op(
        type="split", inputs={"X": source}, outputs={"Out": outputs}, attrs={"num": 2, "axis": 0}
    )
    return {"places": [str(one.place) for one in outputs], "values": outputs[1].numpy().tolist()}


def view_facts(paddle) -> dict:
    tensor = paddle.arange(10)
    part = tensor[2:5]
    part[0] = 100
    turned = paddle.arange(6).reshape([2, 3]).transpose([1, 0])
    return {"aliases": int(tensor[2]) == 100, "turned": (turned + 0).numpy().tolist()}


def main() -> None:
    active = device.activate()
    import paddle

    control = simulate.control()
    facts = {
        "place": active.place,
        "simulated": active.to_json()["simulated"],
        "types": paddle.device.get_all_custom_device_type(),
        "memory": memory_facts(paddle, control),
        "threads": thread_facts(paddle, control),
        "peers": peer_facts(paddle, control),
        "streams": stream_facts(paddle, control),
        "halves": half_facts(paddle),
        "tracer": tracer_facts(paddle),
        "views": view_facts(paddle),
        "counters": simulate.counters(),
        "versions": active.runtime.properties(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
