"""The hosts of a run meet at --master before Paddle's launcher starts there.

The launcher waits for an absent host without end, goes by whatever address the host's name stands for, and
knows nothing of versions. Here hosts say who they are, within a time limit, and each learns why they cannot
work together. Host 0 listens; a line of JSON goes each way, on a connection that stays open until all agree.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from typing import Any

from mix_core.errors import ConfigError, MixError, RunFailedError
from mix_core.training.agreement import differences

LIMIT_VARIABLE = "MIX_MEETING_TIMEOUT"
LIMIT_S = 300.0
_RETRY_S = 0.5
_WORD_S = 5.0
"""For the line of somebody who has connected."""
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class Host:
    """What a host says of itself."""

    number: int
    """Its --node_rank."""
    hosts: int
    devices: int
    versions: dict[str, str] = field(default_factory=dict)
    """What has to be the same everywhere, by name."""


def time_limit(environ: Mapping[str, str]) -> float:
    """Seconds to wait for other hosts. Raises ConfigError for a variable that is no number of them."""
    text = environ.get(LIMIT_VARIABLE) or str(LIMIT_S)
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} is {text!r}; expected seconds, for example 300")
    return limit_s


def meet(master: str, own: Host, limit_s: float) -> str:
    """Wait until all hosts are here and agree -> `master` as ADDRESS:PORT, for Paddle's launcher.

    Raises:
        RunFailedError: --master cannot be reached, or a host does not come, within the limit.
        ConfigError: --master is no address that the launcher could use, or hosts differ.
    """
    name, _, port = master.rpartition(":")
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise ConfigError(f"--master {master}: the host {name} is not known here ({error})") from error
    _check_own_name(master, address, leads=own.number == 0)
    until = time.monotonic() + limit_s
    if own.number == 0:
        _receive(master, address, int(port), own, until, limit_s)
    else:
        _join(master, address, int(port), own, until, limit_s)
    return f"{address}:{port}"


def _check_own_name(master: str, address: str, *, leads: bool) -> None:
    """The launcher tells others the address that this host's name stands for, and starts its server only
    where that is --master's."""
    name = socket.gethostname()
    try:
        announced = socket.gethostbyname(socket.getfqdn(name))
    except OSError:
        announced = "127.0.0.1"  # as the launcher has it then
    if IPv4Address(address).is_loopback:
        return
    if IPv4Address(announced).is_loopback or (leads and announced != address):
        raise ConfigError(
            f"--master {master} is {address}, and the name of this host, {name}, stands for {announced}, "
            "which Paddle's launcher tells the others; let it stand for this host's address in /etc/hosts"
            + (f", or give --master {announced}:... on every host" if leads and announced != address else "")
        )


def _receive(master: str, address: str, port: int, own: Host, until: float, limit_s: float) -> None:
    """Of host 0: hear all others, and tell them whether they may start."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            raise ConfigError(
                f"--master {master}: this host, node_rank 0, cannot listen there ({error.strerror}); give an "
                "address of this host and a free port"
            ) from error
        listener.listen()
        came: dict[int, Host] = {0: own}
        connections: list[socket.socket] = []
        problem: MixError | None = None
        while len(came) < own.hosts and problem is None:
            listener.settimeout(max(0.01, until - time.monotonic()))
            try:
                connection, (where, _) = listener.accept()
            except TimeoutError:
                absent = ", ".join(str(n) for n in range(own.hosts) if n not in came)
                problem = RunFailedError(
                    f"--master {master}: of {own.hosts} hosts, node_rank {absent} did not come in "
                    f"{limit_s:g} s ({LIMIT_VARIABLE} sets the limit); start it, or see why it cannot "
                    "reach this address"
                )
                break
            stack.enter_context(connection)
            other = _host(_read_line(connection, min(until, time.monotonic() + _WORD_S)))
            if other is None:
                continue  # somebody else's connection
            connections.append(connection)
            problem = _difference(own, other, where) if other.number not in came else _twice(other, where)
            came[other.number] = other
        answer = {} if problem is None else {"error": str(problem), "code": problem.exit_code}
        for connection in connections:
            with suppress(OSError):  # who has gone is missed by Paddle's launcher
                connection.sendall(json.dumps(answer).encode() + b"\n")
    if problem is not None:
        raise problem


def _join(master: str, address: str, port: int, own: Host, until: float, limit_s: float) -> None:
    """Of the other hosts: tell host 0 who this is, and hear its answer."""
    reason = "no answer"
    while time.monotonic() < until:
        try:
            with socket.create_connection((address, port), max(0.01, until - time.monotonic())) as connection:
                connection.sendall(json.dumps(asdict(own)).encode() + b"\n")
                answer = _read_line(connection, until + _RETRY_S)
        except OSError as error:
            answer, reason = None, error.strerror or str(error)
        if answer is not None:
            if "error" in answer:
                failure = ConfigError if answer.get("code") == ConfigError.exit_code else RunFailedError
                raise failure(str(answer["error"]))
            return
        time.sleep(min(_RETRY_S, max(0.0, until - time.monotonic())))
    raise RunFailedError(
        f"--master {master} could not be reached in {limit_s:g} s ({reason}; {LIMIT_VARIABLE} sets the "
        "limit); start node_rank 0 at that address, and let its port through"
    )


def _read_line(connection: socket.socket, until: float) -> dict[str, Any] | None:
    """A line of JSON; None for anything else, or where it does not come in time."""
    data = b""
    while not data.endswith(b"\n"):
        connection.settimeout(max(0.01, until - time.monotonic()))
        try:
            more = connection.recv(4096)
        except OSError:
            return None
        data += more
        if not more or len(data) > _LONGEST_LINE:
            return None
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _host(said: dict[str, Any] | None) -> Host | None:
    try:
        return Host(**said) if said is not None else None
    except TypeError:
        return None


def _twice(other: Host, where: str) -> ConfigError:
    return ConfigError(
        f"two hosts say --node_rank {other.number}, one of them {where}; each host has its own, from 0 on"
    )


def _difference(own: Host, other: Host, where: str) -> ConfigError | None:
    """What keeps two hosts from working together."""
    for option, mine, its in (
        ("--nnodes", own.hosts, other.hosts),
        ("number of --devices", own.devices, other.devices),
    ):
        if mine != its:
            return ConfigError(
                f"the {option} is {mine} on node_rank 0 and {its} on node_rank {other.number} ({where}); "
                "give the same on every host"
            )
    differ = differences(own.versions, other.versions)
    if differ is None:
        return None
    return ConfigError(
        f"hosts differ: {differ[0]} on node_rank 0, {differ[1]} on node_rank {other.number} ({where}); "
        "install the same on every host"
    )
