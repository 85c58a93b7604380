"""Hosts meet before ranks start: who does not come, who differs, what no launcher could use."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from mix_core.device.ranks import Job
from mix_core.errors import ConfigError, MixError, RunFailedError
from mix_core.training import meeting
from mix_core.training.agreement import check_ranks, identity
from mix_core.training.meeting import Host, meet, time_limit

VERSIONS = {"mix-core": "0.9.0", "paddlepaddle": "3.3.1"}


@pytest.fixture
def master() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def met(master: str, *hosts: Host, limit_s: float = 20.0) -> list[str | MixError]:
    """What becomes of each host."""

    def one(host: Host) -> str | MixError:
        try:
            return meet(master, host, limit_s)
        except MixError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, hosts))


def hosts(count: int = 2, **last: object) -> list[Host]:
    every = [Host(number, count, 2, VERSIONS) for number in range(count)]
    every[-1] = Host(**{**vars(every[-1]), **last})
    return every


def test_three_hosts_that_agree_go_on_and_leave_the_port_free(master):
    assert met(master, *hosts(3)) == [master] * 3
    assert met(master, *hosts(3)) == [master] * 3  # as after a restart


@pytest.mark.parametrize(
    "last, says",
    [
        (
            {"versions": VERSIONS | {"mix-core": "0.8.0"}},
            "mix-core 0.9.0 on node_rank 0, mix-core 0.8.0 on node_rank 1",
        ),
        (
            {"versions": VERSIONS | {"plugin": "npu (mix-device-npu 1)"}},
            "plugin absent on node_rank 0, plugin npu (mix-device-npu 1) on node_rank 1",
        ),
        ({"devices": 4}, "number of --devices is 2 on node_rank 0 and 4 on node_rank 1"),
        ({"hosts": 3}, "--nnodes is 2 on node_rank 0 and 3 on node_rank 1"),
    ],
    ids=["version", "plugin", "devices", "nnodes"],
)
def test_hosts_that_differ_are_told_both(master, last, says):
    for error in met(master, *hosts(**last)):
        assert type(error) is ConfigError and says in str(error), error


def test_two_hosts_of_one_number(master):
    first, second = hosts(3)[:2]
    for error in met(master, first, second, second):
        assert "two hosts say --node_rank 1" in str(error)


def test_a_host_that_does_not_come_is_named(master):
    for error in met(master, *hosts(3)[:2], limit_s=1.0):
        assert type(error) is RunFailedError
        assert f"--master {master}: of 3 hosts, node_rank 2 did not come in 1 s" in str(error)


def test_an_unreachable_master_is_named_after_the_limit(master):
    (error,) = met(master, hosts()[1], limit_s=1.0)
    assert type(error) is RunFailedError
    assert str(error).startswith(f"--master {master} could not be reached in 1 s (Connection refused;")


def test_a_stranger_s_connection_is_passed_over(master):
    name, port = master.split(":")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(meet, master, hosts()[0], 20.0)
        while True:
            try:
                with socket.create_connection((name, int(port)), 1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\n")
                break
            except ConnectionRefusedError:
                continue
        assert meet(master, hosts()[1], 20.0) == first.result() == master


def test_a_master_that_is_no_address_of_its_host():
    with pytest.raises(ConfigError, match=r"^--master nowhere\.invalid:1: the host .* is not known here"):
        meet("nowhere.invalid:1", hosts()[0], 1.0)


def test_a_host_whose_name_stands_for_itself_alone(monkeypatch):
    """As Debian writes /etc/hosts: Paddle's launcher would send the other hosts to themselves."""
    known = {"here": "127.0.1.1", "10.0.0.1": "10.0.0.1"}
    monkeypatch.setattr(meeting.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(meeting.socket, "getfqdn", lambda name: name)
    monkeypatch.setattr(meeting.socket, "gethostbyname", known.__getitem__)
    with pytest.raises(
        ConfigError, match=r"the name of this host, here, stands for 127\.0\.1\.1.*/etc/hosts"
    ):
        meet("10.0.0.1:6070", hosts()[1], 1.0)
    known["here"] = "192.168.0.1"
    with pytest.raises(ConfigError, match=r"or give --master 192\.168\.0\.1:\.\.\. on every host"):
        meet("10.0.0.1:6070", hosts()[0], 1.0)


def test_the_limit_s_variable():
    assert time_limit({}) == 300 and time_limit({"MIX_MEETING_TIMEOUT": "2.5"}) == 2.5
    for text in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match="MIX_MEETING_TIMEOUT is"):
            time_limit({"MIX_MEETING_TIMEOUT": text})


class Largest:
    """An all_reduce of maxima over threads."""

    def __init__(self, ranks: int) -> None:
        self.said: dict[int, np.ndarray] = {}
        self.barrier = Barrier(ranks)

    def of(self, rank: int):
        def most(values: np.ndarray) -> np.ndarray:
            self.said[rank] = values
            self.barrier.wait(20)
            found = np.max(list(self.said.values()), axis=0)
            self.barrier.wait(20)
            return found

        return most


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_ranks_that_differ_all_hear_of_both(odd):
    everyone = Largest(3)

    def one(rank: int) -> str:
        own = VERSIONS | ({"mix-core": "0.8.0"} if rank == odd else {})
        with pytest.raises(ConfigError) as caught:
            check_ranks(Job(rank, 3), own, everyone.of(rank))
        return str(caught.value)

    with ThreadPoolExecutor(3) as pool:
        texts = set(pool.map(one, range(3)))
    assert len(texts) == 1
    assert f"mix-core 0.8.0 on rank {odd}" in texts.pop()


def test_ranks_that_agree_exchange_two_numbers():
    everyone = Largest(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: check_ranks(Job(rank, 2), VERSIONS, everyone.of(rank)), range(2)))
    assert {len(values) for values in everyone.said.values()} == {2}


def test_what_a_process_says_of_itself():
    found = identity("npu (mix-device-npu 0.1)", simulate=True)
    assert found["plugin"] == "npu (mix-device-npu 0.1), simulated"
    assert {"python", "mix-core", "paddlepaddle"} <= found.keys()
    json.dumps(found)
