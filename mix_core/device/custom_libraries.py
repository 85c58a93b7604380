"""Libraries of custom devices are first loaded in a process of their own: a broken one ends only that.

What has loaded once is not tried again until it, or Paddle, changes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mix_core.device import native
from mix_core.errors import BadInputError

ROOT = "CUSTOM_DEVICE_ROOT"
DEFAULT_FOLDER = "paddle_custom_device"
"""Beside Paddle's package; where Paddle looks when the variable is not set."""
TIMEOUT_S = 120.0


def libraries(environ: Mapping[str, str]) -> list[Path]:
    """What `import paddle` would load in this environment."""
    paddle = native.paddle_folder()
    default = paddle.parent / DEFAULT_FOLDER if paddle else None
    folder = Path(environ[ROOT]) if environ.get(ROOT) else default
    return sorted(folder.glob("*.so")) if folder else []


def refuse_if_broken(environ: Mapping[str, str]) -> None:
    """Raise BadInputError, with the library and the loader's own words, when `import paddle` dies of one."""
    found = libraries(environ)
    if not found:
        return
    mark = _mark(found)
    if mark.is_file():
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import paddle"],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"{_names(found)} does not load: not done after {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise BadInputError(
            f"{_names(found)} does not load: {_reason(done)}; repair or reinstall it, or set {ROOT} "
            "to another folder"
        )
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return  # no cache: the next process tries again


def _names(found: list[Path]) -> str:
    return f"the custom device library {', '.join(map(str, found))}"


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"its process ended by {name}{': ' + said if said else ''}"
    return said or f"exit code {done.returncode}"


def _mark(found: list[Path]) -> Path:
    digest = hashlib.sha256((native.paddle_identity() or "").encode())
    for path in found:
        about = path.stat()
        digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    digest.update(os.fsencode(sys.executable))
    return native.cache_dir() / "loaded" / digest.hexdigest()[:20]
