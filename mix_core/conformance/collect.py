"""Makes operators.json: what the models call, and what each use of the operator cases calls.

`python -m mix_core.conformance.collect DEVICE...` runs each family's tiny model, training and answering, in
each dtype, on simulated devices that have every kernel; then the uses of operator_uses.py on the first of
them. A test makes the file anew and compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mix_core.conformance.on_operators import TABLE
from mix_core.conformance.target import FLOATS, host_environment
from mix_core.device import simulate
from mix_core.device.audit_run import record
from mix_core.device.values import Workload
from mix_core.models.registry import families

MODES = ("train", "infer")
STEP = "mix_core.cli.audit_model"
"""The program that runs one step of a family's tiny model."""


def collect(devices: list[str]) -> dict[str, Any]:
    """`kernels`: kernel -> dtypes and models; `uses`: use -> dtype -> `kernel:dtype`, sorted."""
    kernels: dict[str, dict[str, set[str]]] = {}
    for device in devices:
        for name, family in families().items():
            for dtype in FLOATS if family.tiny else ():
                for mode in MODES:
                    for called in _model(device, name, dtype, mode):
                        row = kernels.setdefault(called.kernel, {"dtypes": set(), "models": set()})
                        row["dtypes"].add(called.dtype)
                        row["models"].add(name)
    rows = {name: {key: sorted(row[key]) for key in row} for name, row in sorted(kernels.items())}
    return {"kernels": rows, "uses": _uses(devices[0])}


def _model(device: str, family: str, dtype: str, mode: str) -> Any:
    workload = Workload(model=family, mode=mode, dtype=dtype, simulate=True)  # type: ignore[arg-type]
    return record([sys.executable, "-m", STEP, family, dtype, mode], device, workload).called


def _uses(device: str) -> dict[str, dict[str, list[str]]]:
    with tempfile.TemporaryDirectory(prefix="mix-collect-") as folder:
        path = Path(folder) / "uses.json"
        environ = host_environment() | {simulate.TABLE: "all"}
        command = [sys.executable, "-m", "mix_core.conformance.collect", "--uses", device, str(path)]
        subprocess.run(command, env=environ, check=True, stdout=sys.stderr)
        found: dict[str, dict[str, list[str]]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _run_uses(device: str, path: Path) -> None:
    """In a process of its own: run each use and note which kernels were called."""
    import mix_core.device as devices
    from mix_core.conformance.case import Context
    from mix_core.conformance.measure import check_use
    from mix_core.conformance.operator_uses import kernels
    from mix_core.conformance.target import find_target

    target = find_target(device, simulated=True)
    active = devices.activate(device, workload=Workload(simulate=True), allow_reexec=True)
    context = Context(target, path.parent, active)
    found: dict[str, dict[str, list[str]]] = {}
    for kernel in kernels():
        for dtype in kernel.dtypes or FLOATS:
            simulate.reset_counters()
            try:
                check_use(context, kernel.use, dtype)
            except Exception as error:
                print(f"{kernel.use.name} in {dtype}: {error}", file=sys.stderr)
                raise
            counted = simulate.counters()
            called = sorted({*counted["kernels"], *counted["fallbacks"]})
            found.setdefault(kernel.use.name, {})[dtype] = called
    path.write_text(json.dumps(found), encoding="utf-8")


def main(words: list[str]) -> None:
    if words[:1] == ["--uses"]:
        _run_uses(words[1], Path(words[2]))
        return
    if not words:
        sys.exit(f"usage: python -m mix_core.conformance.collect DEVICE... (from {os.getcwd()})")
    TABLE.write_text(json.dumps(collect(words), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main(sys.argv[1:])
