"""Training on two hosts: network namespaces on this machine, the simulated devices' collectives over TCP."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from mix_core.device import native
from tests.integration.network_hosts import Host, NoNamespacesError, two_hosts
from tests.integration.rank_runs import alone, assert_same_run, inputs, succeed, train
from tests.integration.training_runs import assert_refused
from tests.plugins.installed import install

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
PORT = 6070


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs(tmp_path_factory.mktemp("hosts"))


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    try:
        with two_hosts() as found:
            yield found
    except NoNamespacesError as error:
        pytest.skip(str(error))


def start(
    pool: ThreadPoolExecutor, folder: Path, hosts: tuple[Host, ...], *words: str, **variables: str
) -> list[Future]:
    """The command on each host. One /proc shows them to each other, so that TCP has to be asked for."""
    master = ("--nnodes", str(len(hosts)), "--master", f"{hosts[0].address}:{PORT}")
    return [
        pool.submit(
            train,
            *(folder, "run", "--devices", "0", *master, "--node_rank", str(number), *words),
            within=host.within,
            timeout_s=500,
            MIX_SIM_TRANSPORT="tcp",
            **variables,
        )
        for number, host in enumerate(hosts)
    ]


@pytest.mark.slow
def test_two_hosts_go_on_after_one_died_to_the_run_of_one_device(folder, hosts):
    with ThreadPoolExecutor() as pool:
        slowly = {"MIX_SIM_FAULTS": "rank:slow,rank=1,ms=250"}  # so that there is a time to die at
        first, second = start(pool, folder, hosts, **slowly)
        until = time.monotonic() + 400
        while not (folder / "run" / "checkpoint-2").is_dir():
            assert time.monotonic() < until and not first.done(), first.result().stderr
            time.sleep(0.05)
        hosts[1].kill()
        died = time.monotonic()
        line = assert_refused(first.result(), 3, "rank 1 ended, on another host, node_rank 1", "logs/node1/")
        assert time.monotonic() - died < 30
        assert re.search(r"rank 1 \(process \d+ on 10\.77\.0\.2\) ended during", line), line
        assert "is the last whole checkpoint" in line and "--resume auto" in line
        assert second.result().returncode == -9
        for done in start(pool, folder, hosts, "--resume", "auto"):
            succeed(done.result())
    assert_same_run(folder / "run", alone(folder, "one", 2))
    weights = (folder / "run" / "checkpoint-6" / "model.safetensors").stat().st_size
    for host in hosts:
        assert host.sent_bytes() > 4 * weights  # a sum of gradients in each of at least four steps


def test_an_unreachable_master_is_one_line(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
        words = ("--devices", "0", "--nnodes", "2", "--node_rank", "1", "--master", master)
        done = train(folder, "alone", *words, MIX_MEETING_TIMEOUT="1")
    assert_refused(done, 3, f"--master {master} could not be reached in 1 s", "MIX_MEETING_TIMEOUT")


def another_version(folder: Path) -> str:
    """A folder whose metadata says that another mix-core is installed."""
    found = metadata.distribution("mix-core")
    there = folder / "other" / "mix_core-0.0.1.dist-info"
    there.mkdir(parents=True)
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: mix-core\nVersion: 0.0.1\n")
    (there / "entry_points.txt").write_text(found.read_text("entry_points.txt"))
    return str(there.parent)


@pytest.mark.slow
def test_ranks_of_another_launcher_that_differ_hear_of_both(folder, tmp_path):
    """Each rank started by itself, with the variables that Paddle's launcher sets, as a cluster's does."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    master, *ends = (f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    for one in sockets:
        one.close()

    def rank(number: int):
        variables = {
            "PADDLE_MASTER": master,
            "PADDLE_TRAINER_ID": str(number),
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
            "PADDLE_CURRENT_ENDPOINT": ends[number],
            "PADDLE_DISTRI_BACKEND": "xccl",
            "PADDLE_XCCL_BACKEND": "npu",
            "FLAGS_selected_npus": str(number),
            "MIX_SIM_DEVICES": "2",
        }
        if number:
            path = [another_version(tmp_path), *install(["mix_device_npu"], folder / "site")]
            variables["PYTHONPATH"] = os.pathsep.join(path)
        return train(folder, "differ", **variables)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(rank, range(2)):
            own = metadata.version("mix-core")
            assert_refused(done, 2, f"mix-core {own} on rank 0, mix-core 0.0.1 on rank 1", "install the same")
