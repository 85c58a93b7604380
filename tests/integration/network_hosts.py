"""Two hosts on one machine: network namespaces with an address each, joined by a pair of virtual devices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FILES = Path("/etc/netns")
"""What lies in its folder NAME stands in place of /etc's files in that namespace (ip-netns(8))."""


class NoNamespacesError(Exception):
    """Why this machine has none."""


@dataclass(frozen=True)
class Host:
    name: str
    address: str

    @property
    def within(self) -> list[str]:
        """Words before a command's that run it there."""
        return ["ip", "netns", "exec", self.name]

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def sent_bytes(self) -> int:
        """Over its network device."""
        (device,) = json.loads(_ip("-n", self.name, "-s", "-j", "link", "show", "wire"))
        return int(device["stats64"]["tx"]["bytes"])


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Raises NoNamespacesError where they cannot be made."""
    if shutil.which("ip") is None:
        raise NoNamespacesError("no program `ip` (package iproute2)")
    if os.geteuid() != 0:
        raise NoNamespacesError("network namespaces need root")
    hosts = tuple(Host(f"mix{os.getpid()}n{i}", f"10.77.0.{i + 1}") for i in range(2))
    try:
        try:
            _join(*hosts)
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise NoNamespacesError(f"no network namespaces here: {said.strip()}") from error
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                host.kill()
                _ip("netns", "del", host.name)
            shutil.rmtree(_FILES / host.name, ignore_errors=True)
        with suppress(OSError):
            _FILES.rmdir()


def _join(first: Host, second: Host) -> None:
    for host in (first, second):
        _ip("netns", "add", host.name)
    words = ("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", second.name)
    _ip("-n", first.name, *words)
    for host in (first, second):
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "wire")
        _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", host.name, "link", "set", "wire", "up")
        _ip("-n", host.name, "route", "add", "default", "dev", "wire")
        (_FILES / host.name).mkdir(parents=True)
        known = f"127.0.0.1 localhost\n{host.address} {socket.gethostname()}\n"
        (_FILES / host.name / "hosts").write_text(known, encoding="utf-8")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
