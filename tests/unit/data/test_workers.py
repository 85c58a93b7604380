"""Data workers: what goes wrong in one arrives, a death is noticed, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from builders.toy_processor import ToyProcessor, make_broken, make_with_paddle, rows_of

from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.shared_memory import read_arrays, write_arrays
from mix_core.errors import DataError, RunFailedError


def load(texts, *, workers=1, make_processor=ToyProcessor, batch_size=2):
    order_kept = BatchSettings(batch_size=batch_size, max_length=64)
    return BatchLoader(
        rows_of(texts), ToyProcessor(), order_kept, num_workers=workers, make_processor=make_processor
    )


def worker_pids(loader):
    return [worker.process.pid for worker in loader._source._pool._workers]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_arrays_pass_unchanged_and_descriptors_close():
    arrays = [
        np.arange(7, dtype=np.int32),
        np.empty((0, 3), np.float32),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(5, np.uint8),
        np.arange(24)[::3],
    ]
    before = descriptors()
    descriptor, places = write_arrays(arrays)
    for array, other in zip(arrays, read_arrays(descriptor, places), strict=True):
        np.testing.assert_array_equal(array, other, strict=True)
        assert other.flags.writeable and other.flags.owndata
    os.close(descriptor)
    assert descriptors() == before


@pytest.mark.parametrize("order", ["[bad]", "[bug]"])
def test_an_exception_arrives_with_its_text(order):
    with load(["fine", order], batch_size=2) as loader, pytest.raises((DataError, RunFailedError)) as caught:
        next(loader)
    if order == "[bad]":
        assert type(caught.value) is DataError and str(caught.value) == "toy.json row 2: a bad sample"
    else:
        assert type(caught.value) is RunFailedError
        assert "a data worker failed: ZeroDivisionError: a bug; dataloader_num_workers 0" in str(caught.value)
    assert "in obey" in str(caught.value.__cause__)  # where it happened, for --debug


def test_a_bad_sample_does_not_stop_the_batches_before_it():
    texts = [f"{n:02d}" for n in range(40)]
    visits = [BatchLoader(rows_of(texts), ToyProcessor(), BatchSettings(batch_size=40, max_length=9))]
    last = next(visits[0])["input_ids"][-1]
    texts[int(bytes(last.astype(np.uint8)))] = "[bad]"
    with load(texts, workers=2, batch_size=4) as loader:
        for _ in range(9):
            next(loader)
        with pytest.raises(DataError, match="a bad sample"):
            next(loader)


@pytest.mark.parametrize(
    ("order", "how"), [("[die]", "was ended by SIGKILL; out of memory"), ("[exit]", "exited with code 7")]
)
def test_a_dead_worker_is_noticed(order, how):
    with load([order] * 4) as loader:
        (pid,) = worker_pids(loader)
        with pytest.raises(RunFailedError, match=f"data worker {pid} {re.escape(how)}"):
            next(loader)


def test_a_worker_killed_from_outside_is_noticed_while_waiting():
    with load(["[sleep]"] * 2) as loader:
        (pid,) = worker_pids(loader)
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({pid}, {int(signal.SIGKILL)})"]
        )
        with pytest.raises(RunFailedError, match=f"data worker {pid} was ended by SIGKILL"):
            next(loader)
        killer.wait()


@pytest.mark.parametrize(
    ("make_processor", "kind", "message"),
    [
        (make_broken, DataError, "this folder has no processor"),
        (make_with_paddle, RunFailedError, "making the processor imported paddle"),
    ],
)
def test_what_keeps_workers_from_starting_arrives(make_processor, kind, message):
    with load(["a"] * 4, make_processor=make_processor) as loader, pytest.raises(kind, match=message):
        next(loader)


def test_workers_import_no_paddle_and_no_main_module():
    with load(["[modules]"] * 2) as loader, pytest.raises(DataError) as caught:
        next(loader)
    assert str(caught.value) == "numpy"


def test_closing_ends_busy_workers_and_frees_descriptors(monkeypatch):
    monkeypatch.setattr("mix_core.data.workers.CLOSE_TIMEOUT_S", 0.5)
    before = descriptors()
    loader = load(["[sleep]"] * 8, workers=2)
    pids = worker_pids(loader)
    loader._source.prefetch(range(8))
    loader.close()
    loader.close()
    assert not any(map(is_alive, pids))
    assert descriptors() == before


def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = f"""
        import os, signal, sys
        sys.path[:] = {sys.path!r}
        from builders.toy_processor import ToyProcessor, rows_of
        from mix_core.data.loader import BatchLoader, BatchSettings
        settings = BatchSettings(batch_size=4, max_length=9)
        rows = rows_of(["pixels"] * 64)
        loader = BatchLoader(rows, ToyProcessor(), settings, num_workers=2, make_processor=ToyProcessor)
        next(loader)
        print(*[worker.process.pid for worker in loader._source._pool._workers], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    before = set(os.listdir("/dev/shm"))
    parent = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, timeout=60
    )
    pids = [int(word) for word in parent.stdout.split()]
    assert parent.returncode == -signal.SIGKILL and len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids)))
    assert set(os.listdir("/dev/shm")) <= before  # samples travel in memory without a name


def test_interrupt_is_left_to_the_training_process():
    with load(["a"] * 8) as loader:
        next(loader)
        (pid,) = worker_pids(loader)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert len(next(loader)["input_ids"]) == 2 and is_alive(pid)


def test_large_samples_and_rows_pass(tmp_path):
    texts = ["pixels" + "x" * 5000] * 3 + ["y" * 300_000] * 3
    rows = rows_of(texts)
    settings = BatchSettings(batch_size=6, max_length=1 << 20, cache_bytes=0)
    with BatchLoader(rows, ToyProcessor(), settings, num_workers=1, make_processor=ToyProcessor) as loader:
        batch = next(loader)
    assert batch["pixel_values"].shape == (3 * 5006, 1000)
    assert sorted(batch["attention_mask"].sum(axis=1).tolist()) == [5006] * 3 + [300_000] * 3
