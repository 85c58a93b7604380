"""The kernels of the installed Paddle, asked of it in a process of its own: an audit imports no paddle.

`python -m mix_core.device.audit_kernels FILE [NAME...]` writes one JSON object: `cpu` and `everywhere`, each
kernel to dtypes, and `names`, the kernels behind those of the old operator names that Paddle knows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mix_core.errors import DeviceError

_KEY = re.compile(r"\((\w+), .*, (\w+)\)")  # (CPU, Undefined(AnyLayout), float32)
_BACKENDS = {"CPU": "cpu", "CUSTOM": "everywhere"}
TIMEOUT_S = 120.0


def ask(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """What Paddle answers to `main`, asked once. Raises DeviceError where it cannot be asked."""
    return _answer(tuple(names), frozenset(environ.items()))


@cache
def _answer(names: tuple[str, ...], environ: frozenset[tuple[str, str]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mix-audit-") as folder:
        path = Path(folder) / "kernels.json"
        command = [sys.executable, "-W", "ignore", "-m", __name__, str(path), *names]
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0 or not path.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DeviceError(f"the installed paddle does not tell its kernels: {last}")
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return answer


def sorted_out(registered: Mapping[str, Iterable[str]]) -> dict[str, dict[str, list[str]]]:
    """Paddle's list, kernel to keys, as `cpu` and `everywhere`: kernel to dtypes."""
    found: dict[str, dict[str, set[str]]] = {"cpu": {}, "everywhere": {}}
    for kernel, keys in registered.items():
        for match in filter(None, map(_KEY.fullmatch, keys)):
            if match[1] in _BACKENDS:
                found[_BACKENDS[match[1]]].setdefault(kernel, set()).add(match[2])
    return {
        place: {kernel: sorted(dtypes) for kernel, dtypes in kernels.items()}
        for place, kernels in found.items()
    }


def main(argv: list[str]) -> None:
    from paddle import base

    core: Any = base.core
    path, names = Path(argv[0]), argv[1:]
    answer: dict[str, Any] = sorted_out(core._get_registered_phi_kernels("function"))
    # a black list holds old operator names; others on it have no effect
    known = core._get_all_register_op_kernels("phi")
    answer["names"] = {name: core._get_phi_kernel_name(name) for name in names if name in known}
    path.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
