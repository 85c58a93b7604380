"""Bytes by address, against servers on this machine: limits, redirects, private hosts."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from mix_core.data import fetch
from mix_core.data.fetch import fetch_bytes
from mix_core.data.images import load_image
from mix_core.errors import DataError

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        route = self.path.split("?")[0]
        if route == "/ok":
            self.reply(200, BODY)
        elif route == "/query":
            self.reply(200, self.path.encode())
        elif route == "/image":
            out = io.BytesIO()
            Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(out, "PNG")
            self.reply(200, out.getvalue())
        elif route == "/loop":
            self.reply(302, b"", Location="/loop")
        elif route.startswith("/to/"):
            self.reply(302, b"", Location=self.path.removeprefix("/to/"))
        elif route == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "99999")
            self.end_headers()
            self.wfile.write(BODY)
        elif route == "/endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.wait(0.001):  # type: ignore[attr-defined]
                self.wfile.write(BODY)
        elif route == "/drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
                self.wfile.flush()
        elif route == "/slow-header":
            while not self.server.closing.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
                self.wfile.flush()
        else:
            self.reply(404, b"nothing here")

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    instance = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.closing = threading.Event()  # type: ignore[attr-defined]
    instance.daemon_threads = True
    instance.handle_error = lambda *args: None  # clients that hang up are what the tests are about
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{instance.server_port}"
    instance.closing.set()  # type: ignore[attr-defined]
    instance.shutdown()
    instance.server_close()


def get(url: str, **options: object) -> bytes:
    return fetch_bytes(url, **{"max_bytes": 1 << 20, "timeout_s": 20.0, "allow_private": True, **options})


def test_the_body_comes_back(server):
    assert get(server + "/ok") == BODY
    assert get(server + "/query?a=1&b=2") == b"/query?a=1&b=2"


def test_an_image_by_address(server):
    assert load_image(server + "/image", allow_private_urls=True).getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(DataError, match="no image format"):
        load_image(server + "/ok", allow_private_urls=True)


def test_private_addresses_are_refused_unless_allowed(server):
    with pytest.raises(DataError, match=r"private address 127\.0\.0\.1, which is refused"):
        get(server + "/ok", allow_private=False)
    with pytest.raises(DataError, match=r"private address 127\.0\.0\.1"):
        load_image(server + "/image")
    with pytest.raises(DataError, match="'localhost' has the private address"):
        get(server.replace("127.0.0.1", "localhost"), allow_private=False)


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fc00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_every_way_to_write_a_private_address_is_refused(host):
    with pytest.raises(DataError, match="has the private address"):
        get(f"http://{host}/x", allow_private=False, timeout_s=5.0)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_told_apart(address):
    assert fetch._is_public(address)


def test_a_redirect_to_a_private_host_is_refused(server, monkeypatch):
    """The first host counts as public here; the one it points to does not."""
    real = fetch._is_public
    seen = []

    def public_at_first(address: str) -> bool:
        seen.append(address)
        return len(seen) == 1 or real(address)

    monkeypatch.setattr(fetch, "_is_public", public_at_first)
    with pytest.raises(DataError, match=r"private address 127\.0\.0\.1, which is refused"):
        get(f"{server}/to/{server}/ok", allow_private=False)
    assert len(seen) == 2


def test_redirects_are_followed_a_few_times(server):
    assert get(f"{server}/to/{server}/to//ok") == BODY
    with pytest.raises(DataError, match="more than 5 redirects"):
        get(server + "/loop")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
def test_other_schemes_are_refused_also_after_a_redirect(server, target):
    for url in (target, f"{server}/to/{target}"):
        with pytest.raises(DataError, match=r"scheme is '(file|ftp|gopher)', expected http or https"):
            get(url)


def test_an_answer_other_than_ok_is_named(server):
    with pytest.raises(DataError, match=f"cannot fetch {server}/none: the server answered 404"):
        get(server + "/none")


def test_a_short_answer_is_named(server):
    with pytest.raises(DataError, match="ended after 10240 of 99999 bytes"):
        get(server + "/short")


def test_too_many_bytes_are_refused_by_the_header_and_by_count(server):
    with pytest.raises(DataError, match="holds 10240 bytes, and the limit is 1000"):
        get(server + "/ok", max_bytes=1000)
    with pytest.raises(DataError, match="the limit is 100000"):
        get(server + "/endless", max_bytes=100_000)


@pytest.mark.parametrize("route", ["/drip", "/slow-header"])
def test_the_time_limit_holds_for_servers_that_drip(server, route):
    started = time.monotonic()
    with pytest.raises(DataError, match="no complete answer within 1 s"):
        get(server + route, timeout_s=1.0)
    assert time.monotonic() - started < 10


def test_a_closed_port_and_an_unknown_host_are_named():
    with pytest.raises(DataError, match=r"cannot fetch http://127\.0\.0\.1:9/x: .*[Rr]efused"):
        get("http://127.0.0.1:9/x")
    with pytest.raises(DataError, match=r"'no-such-host\.invalid' cannot be resolved"):
        get("http://no-such-host.invalid/x")
    with pytest.raises(DataError, match="names no host"):
        get("http:///x")
    with pytest.raises(DataError, match="cannot fetch"):
        get("http://127.0.0.1:99999/x")
