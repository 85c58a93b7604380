"""Bytes of an http(s) address, within limits of size and time, and from public hosts only.

A data set or a chat message may name any address, so a private one (a router, a cloud's metadata service)
is refused unless the caller allows it. The address that was checked is the one connected to, and every
redirect is checked again. Proxies of the environment are not used: they hide which host answers.
"""

from __future__ import annotations

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from mix_core import __version__
from mix_core.errors import DataError

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_url(source: object) -> bool:
    """Whether ``source`` is text of the form ``scheme://...``."""
    return isinstance(source, str) and "://" in source[:32]


def fetch_bytes(url: str, *, max_bytes: int, timeout_s: float, allow_private: bool = False) -> bytes:
    """Return the body behind ``url``.

    ``timeout_s`` bounds the whole exchange, redirects included. Raises DataError, naming the address, for
    another scheme than http or https, a private or unknown host, a status other than 200, a limit passed.
    """
    deadline = time.monotonic() + timeout_s
    target = url
    for _ in range(MAX_REDIRECTS + 1):
        try:
            redirect, body = _get(urlsplit(target), max_bytes, deadline, allow_private)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            if time.monotonic() >= deadline:
                reason = f"no complete answer within {timeout_s:g} s"
            raise DataError(f"cannot fetch {url}: {reason}") from error
        if body is not None:
            return body
        target = urljoin(target, redirect)
    raise DataError(f"cannot fetch {url}: more than {MAX_REDIRECTS} redirects")


def _get(
    parts: SplitResult, max_bytes: int, deadline: float, allow_private: bool
) -> tuple[str, bytes | None]:
    """One request. Returns (where it redirects to, None) or ("", body)."""
    if parts.scheme not in ("http", "https"):
        raise ValueError(
            f"the scheme is {parts.scheme!r}, expected http or https; name a local file by its path"
        )
    if not parts.hostname:
        raise ValueError("it names no host")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _public_address(parts.hostname, port, deadline, allow_private)
    connection = _connect(parts, address, port, deadline)
    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), _shut_down, [connection.sock])
    watchdog.daemon = True
    watchdog.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mix-core/{__version__}"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status in _REDIRECTS:
            return response.headers.get("Location", ""), None
        if response.status != 200:
            raise OSError(f"the server answered {response.status} {response.reason}")
        body = _read(response, max_bytes)
        if time.monotonic() >= deadline:  # the watchdog's end looks like the end of a body of unknown length
            raise TimeoutError("the transfer was cut off")
        return "", body
    finally:
        watchdog.cancel()
        connection.close()


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    declared = response.length
    body = bytearray()
    while declared is None or declared <= max_bytes:
        chunk = response.read(_CHUNK_BYTES)
        if not chunk:
            if declared is not None and len(body) < declared:
                raise OSError(f"the connection ended after {len(body)} of {declared} bytes")
            return bytes(body)
        body += chunk
        if len(body) > max_bytes:
            break
    raise OSError(f"it holds {declared or 'more'} bytes, and the limit is {max_bytes}")


def _public_address(host: str, port: int, deadline: float, allow_private: bool) -> str:
    """Resolve ``host`` and return its first address; raise if any of its addresses is not public."""
    answers: queue.Queue[list[str] | OSError] = queue.Queue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as error:
            answers.put(OSError(f"host {host!r} cannot be resolved ({error})"))

    threading.Thread(target=resolve, daemon=True).start()
    try:
        found = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"host {host!r} was not resolved in time") from None
    if isinstance(found, OSError):
        raise found
    for address in found:
        if not allow_private and not _is_public(address):
            raise OSError(
                f"host {host!r} has the private address {address}, which is refused; "
                "download the file yourself and name its path"
            )
    return found[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not _is_public(str(inner)):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not ip.is_multicast


def _connect(parts: SplitResult, address: str, port: int, deadline: float) -> http.client.HTTPConnection:
    """A connection to ``address``; the host's name still goes into the request and the certificate check."""
    host = str(parts.hostname)
    timeout_s = max(0.001, deadline - time.monotonic())
    sock = socket.create_connection((address, port), timeout=timeout_s)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    if parts.scheme == "https":
        try:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError:
            sock.close()
            raise
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s)
    connection.sock = sock
    return connection


def _shut_down(sock: socket.socket) -> None:
    """End a transfer that has used up its time: reads in progress return at once."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        sock.close()
