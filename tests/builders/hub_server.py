"""A server on this machine that speaks the part of the hub's interface that a download uses.

Model information, tree listing, and files by commit with HEAD, GET and Range. It can cut a transfer off, or
let it hang, after a number of bytes, and keeps a list of what was asked of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """What the server serves, and what happened."""

    models: dict[str, Path]
    """Hub name -> folder with its files; a data set's name stands behind `datasets/`."""
    cut_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which its next GET is cut off, once."""
    hang_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which its next GET sends nothing more, once."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range header) in the order of arrival."""
    endpoint: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def gets(self, file: str) -> list[str | None]:
        """Range headers of the GET requests for a file."""
        return [ranged for method, path, ranged in self.requests if method == "GET" and path.endswith(file)]


@contextmanager
def hub_server(models: dict[str, Path]) -> Iterator[HubServer]:
    state = HubServer(models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            state.requests.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.split("?")[0]
            if match := re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/(revision|tree)/([^/]+))?", path):
                self._describe(match[2] if match[1] == "models" else f"datasets/{match[2]}", match[3])
            elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
                self._file(match[1], match[3], body)
            else:
                self._json(404, {"error": "not found"})

        def _describe(self, name: str, what: str | None) -> None:
            folder = state.models.get(name)
            if folder is None:
                self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            if what == "tree":
                self._json(200, [_tree_entry(folder, file) for file in files])
                return
            siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
            self._json(200, {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})

        def _file(self, name: str, file: str, body: bool) -> None:
            path = state.models.get(name, Path("/nonexistent")) / file
            if not path.is_file():
                self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            content = path.read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if self.headers.get("Range") else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                self._send(file, content[start:], start)

        def _send(self, file: str, content: bytes, start: int) -> None:
            limit = state.cut_after.pop(file, None)
            hang = state.hang_after.pop(file, None)
            if limit is None and hang is None:
                self.wfile.write(content)
                return
            self.wfile.write(content[: max(0, (limit or hang or 0) - start)])
            self.wfile.flush()
            if hang is not None:
                state.closing.wait(60)
            self.close_connection = True

        def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()


def _tree_entry(folder: Path, file: Path) -> dict[str, object]:
    content = file.read_bytes()
    entry: dict[str, object] = {
        "type": "file",
        "path": str(file.relative_to(folder)),
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if file.suffix == ".safetensors":
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
