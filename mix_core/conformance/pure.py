"""Calls each 'before' hook of a plugin in a fresh process and notes what it does beside answering.

`python -m mix_core.conformance.pure DEVICE FILE` writes one JSON object: whether the import or a hook brought
paddle in, opened a device file, loaded a library, started a program or a connection, changed the environment.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HARMLESS_FILES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/tty")
WATCHED = {
    "ctypes.dlopen": "loads the library {0}",
    "subprocess.Popen": "starts the program {0}",
    "os.system": "starts the program {0}",
    "socket.connect": "opens a connection",
}
PROBES = 3


class _Watch:
    """What happens in the process while `touched` is a list."""

    def __init__(self) -> None:
        self.touched: list[str] | None = None
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.touched is None:
            return
        if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith("/dev/"):
            if arguments[0] not in HARMLESS_FILES:
                self.touched.append(f"opens {arguments[0]}")
        elif event in WATCHED and arguments[0] is not None:
            self.touched.append(WATCHED[event].format(arguments[0]))

    def call(self, action: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        environ, had_paddle = dict(os.environ), "paddle" in sys.modules
        self.touched, answer, error = [], None, None
        started = time.perf_counter()
        try:
            answer = action()
        except (Exception, SystemExit) as raised:  # noqa: BLE001 (a plugin may raise anything)
            error = f"{type(raised).__name__}: {raised}"
        seconds = time.perf_counter() - started
        touched, self.touched = self.touched, None
        changed = sorted(k for k in environ.keys() | os.environ.keys() if environ.get(k) != os.environ.get(k))
        paddle = "paddle" in sys.modules and not had_paddle
        return answer, {
            "error": error,
            "seconds": seconds,
            "paddle": paddle,
            "touched": touched,
            "changed": changed,
        }


def look(device: str) -> dict[str, Any]:
    """Hook to what was seen of it, over all its calls."""
    from mix_core.device import choice, discovery
    from mix_core.device.values import Workload

    watch = _Watch()
    entry = choice.find_entry(device, discovery.find_entries())
    _module, seen = watch.call(entry.entry_point.load)
    found = {"import": seen}
    if seen["error"]:
        return found
    plugin = discovery.load(entry)
    hooks = plugin.hooks()
    for name in ("mix_profile", "mix_operator_support", "mix_conformance"):
        _, found[name] = watch.call(getattr(hooks, name))
    probes = [watch.call(hooks.mix_probe)[1] for _ in range(PROBES)]
    found["mix_probe"] = probes[0] | {"seconds": min(probe["seconds"] for probe in probes)}
    kinds = itertools.product(("understanding", "generation"), ("train", "infer"), (1, 8), (False, True))
    for task, mode, ranks, deterministic in kinds:
        workload = Workload(task, None, mode, "bfloat16", ranks, deterministic)  # type: ignore[arg-type]
        for name in ("mix_environment", "mix_allocator", "mix_stride_kernel", "mix_blacklisted_ops"):
            hook = getattr(hooks, name)
            _, seen = watch.call(lambda hook=hook, workload=workload: hook(workload=workload))
            found[name] = _worse(found.get(name), seen)
    return found


def _worse(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    if before is None:
        return now
    return {
        "error": before["error"] or now["error"],
        "seconds": max(before["seconds"], now["seconds"]),
        "paddle": before["paddle"] or now["paddle"],
        "touched": before["touched"] + now["touched"],
        "changed": sorted({*before["changed"], *now["changed"]}),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(look(sys.argv[1])), encoding="utf-8")
