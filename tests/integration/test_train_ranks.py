"""Data parallel training as a user starts it: `--devices 0,1` on simulated devices, against one device."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mix_core.device import native
from tests.integration.rank_runs import (
    RELATIVE,
    STEPS,
    alone,
    assert_same_run,
    inputs,
    on_ranks,
    succeed,
    train,
)
from tests.integration.training_runs import assert_refused, digests, metrics

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return on_ranks(folder, "two", 2)


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", 2)


def test_two_devices_train_as_one(one, two):
    assert_same_run(two, one)


def test_the_first_rank_alone_writes(two):
    written = {"checkpoint-4", "checkpoint-6", "logs", "metrics.jsonl", "report.html", "results.json"}
    assert {path.name for path in two.iterdir()} == written | {"run.json", ".lock"}
    record = json.loads((two / "run.json").read_text())
    assert (record["status"], record["last_step"], record["device"]["index"]) == ("finished", STEPS, 0)
    assert "step 6/6" in (two / "logs" / "workerlog.1").read_text()


def test_a_rank_that_dies_ends_the_run_and_is_named_once(folder):
    started = time.monotonic()
    done = train(folder, "dead", "--devices", "0,1", MIX_KILL_AT="forward:4@1")
    line = assert_refused(done, 3, "rank 1 ended without saying why", "workerlog.1")
    # 4 may still have been on its way to the disk
    assert re.search("checkpoint-[24] is the last whole", line), line
    assert time.monotonic() - started < 60  # Python and Paddle start within it, three times
    assert "--devices 0,1" in line and "--resume auto" in line
    assert (done.stdout + done.stderr).count("rank 1 ended without") == 1


@pytest.mark.parametrize(
    "words, says",
    [
        (("--devices", "0,0"), ("--devices is '0,0'",)),
        (("--devices", "0,1", "--nnodes", "2"), ("--nnodes 2 needs --master",)),
        (("--devices", "0,1", "--device", "npu:1"), ("npu:1 is one device, and --devices names them",)),
        (("--devices", "0,1", "--global_batch_size", "2"), ("global_batch_size 2 is not", "2 devices")),
    ],
    ids=["twice", "no master", "an index", "batch"],
)
def test_bad_input_is_one_line_and_code_2(folder, words, says):
    assert_refused(train(folder, "bad", *words), 2, *says)


def test_devices_of_a_processor_are_refused(folder):
    done = train(folder, "bad", "--devices", "0,1", "--device", "cpu", MIX_SIMULATE="0")
    assert_refused(done, 2, "the cpu is one device", "leave --devices out", "--nproc_per_node 2")


@pytest.mark.slow
def test_restarts_go_on_from_the_last_checkpoint_to_the_same_bits(folder, two):
    done = train(folder, "again", "--devices", "0,1", "--max_restarts", "1", MIX_KILL_AT="forward:4@1")
    succeed(done)
    assert re.search("starting again from checkpoint-[24]", done.stderr), done.stderr
    assert digests(folder / "again" / "checkpoint-6") == digests(two / "checkpoint-6")


@pytest.mark.slow
def test_a_rank_s_own_error_is_told_and_what_was_learned_is_saved(tmp_path):
    folder = inputs(tmp_path, shuffle=False)
    (folder / "data" / "7.png").write_bytes(b"<html>not found</html>")
    done = train(folder, "rescued", "--devices", "0,1")
    assert_refused(done, 2, "rank", "train.json row 8", "checkpoint-1 is the last whole checkpoint")


@pytest.mark.slow
def test_ranks_without_a_picture_join_in(tmp_path):
    """Rows 1, 4, 7 and 10 are text; with batches of one, a rank then has a step without a picture."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False)
    assert_same_run(on_ranks(folder, "two", 2), alone(folder, "one", 2))


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--bf16", "--fp16_opt_level", "O2")], ids=["float32", "bf16"])
def test_sums_during_the_backward_pass_change_nothing(tmp_path, words):
    """Rows 1, 4, 7 and 10 are text, and an epoch ends with a step that has passes on one rank only."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False)
    words = ("--gradient_accumulation_steps", "2", *words)
    plain = metrics(on_ranks(folder, "plain", 2, *words))
    overlapping = metrics(on_ranks(folder, "overlapping", 2, *words, "--overlap_grad_reduce"))
    assert len(plain) == STEPS
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in overlapping] == [row[key] for row in plain]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["xpu", "gpu"])
def test_other_chips_train_as_one(folder, device):
    two = on_ranks(folder, f"two-{device}", 2, device=device)
    assert_same_run(two, alone(folder, f"one-{device}", 2, device=device))


@pytest.mark.slow
def test_four_ranks_pack_the_global_stream(tmp_path):
    folder = inputs(tmp_path, per_device_train_batch_size=1, mixtoken=True, max_length=96)
    assert_same_run(on_ranks(folder, "four", 4), alone(folder, "one", 4))


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--bf16",), ("--fp16", "--fp16_opt_level", "O2")], ids=["bf16", "fp16"])
def test_sixteen_bits_agree(folder, words):
    """Not to 1e-5: the last bit of a float32 sum, which moves with where memory lies, becomes one of 16."""
    name = words[0].removeprefix("--")
    two = metrics(on_ranks(folder, f"two-{name}", 2, *words))
    one = metrics(alone(folder, f"one-{name}", 2, *words))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=1e-4)


@pytest.mark.slow
def test_a_run_on_one_device_goes_on_with_two(folder, one):
    start = str(one / "checkpoint-4")
    run = on_ranks(folder, "grown", 2, "--resume", start)
    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    found = {row["step"]: row["loss"] for row in metrics(run)}
    assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE)


@pytest.mark.slow
def test_two_hosts_train_as_one_device(folder, one):
    """Two calls that meet at --master; here on one host, which has both devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"

    def host(number: int) -> subprocess.CompletedProcess[str]:
        words = ("--devices", str(number), "--nnodes", "2", "--node_rank", str(number), "--master", master)
        return train(folder, "hosts", *words, MIX_SIM_DEVICES="2")

    with ThreadPoolExecutor() as pool:
        for done in pool.map(host, range(2)):
            succeed(done)
    assert_same_run(folder / "hosts", one)
    assert (folder / "hosts" / "logs" / "node1" / "workerlog.0").is_file()
