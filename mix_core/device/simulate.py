"""The simulated device: what a run asks of it, the settings that load it, and its control while it runs.

It is a real custom device of Paddle in host memory (csrc/sim). The variables MIX_SIM_* configure it; the
functions at the end read its counters and make its faults in this process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from mix_core.device import custom_libraries, native, simulate_build
from mix_core.device.custom_libraries import ROOT
from mix_core.device.profile import DeviceProfile
from mix_core.device.settings import Layer
from mix_core.device.simulate_faults import check_faults
from mix_core.device.values import Decision, Workload
from mix_core.errors import BadInputError, DeviceError

VARIABLE = "MIX_SIMULATE"
SOURCE = "simulation"
DEVICES, MEMORY, TABLE, PROTECT, FAULTS = (
    f"MIX_SIM_{name}" for name in ("DEVICES", "MEMORY", "TABLE", "PROTECT", "FAULTS")
)
REPORT, COUNTERS = "MIX_SIM_REPORT", "MIX_SIM_COUNTERS"
"""1: print the counters when the process ends; a file to write them to, where `%p` is the process."""
KERNELS = "MIX_SIM_KERNELS"
"""`reference`: what only a kernel of the chip can serve is left to the references, not to the host's kernels,
so that what is called is what a chip without that kernel would call."""
TYPE, OPERATORS, BYTES, REFUSED = (f"MIX_SIM_{name}" for name in ("TYPE", "OPERATORS", "BYTES", "REFUSED"))
"""What the library reads beside DEVICES, PROTECT and FAULTS; derived here, not meant for users."""

DERIVED = frozenset({ROOT, TYPE, OPERATORS, BYTES, REFUSED})
"""Variables that a simulation replaces whatever the user has there."""

MAX_DEVICES = 16
DEFAULT_MEMORY = "4GiB"
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_WHEEL = "paddlepaddle"


@dataclass(frozen=True)
class Simulation:
    """What is simulated, from the variables MIX_SIM_*."""

    devices: int = 1
    memory_bytes: int = 4 << 30
    """Of each device."""
    table: str = "chip"
    """`chip`: the plugin's operator table; `all`: every kernel that the CPU has; else a file: a kernel
    and its dtypes in each line."""
    protect: bool = True
    """Device memory cannot be touched by the host, as on a chip."""
    faults: str = ""


def wanted(workload: Workload, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the workload or MIX_SIMULATE asks for a simulated device."""
    environ = os.environ if environ is None else environ
    return workload.simulate or environ.get(VARIABLE, "") not in ("", "0")


def requested(environ: Mapping[str, str]) -> Simulation:
    """Read MIX_SIM_*. Raises BadInputError, with the variable, for a value that cannot be."""
    count = environ.get(DEVICES) or "1"
    if not count.isdigit() or not 1 <= int(count) <= MAX_DEVICES:
        raise BadInputError(f"{DEVICES} is {count!r}; give a number of devices from 1 to {MAX_DEVICES}")
    protect = environ.get(PROTECT) or "1"
    if protect not in ("0", "1"):
        raise BadInputError(f"{PROTECT} is {protect!r}; give 1 (as on a chip) or 0 (faster to debug)")
    faults = environ.get(FAULTS, "")
    check_faults(faults)
    table = environ.get(TABLE) or "chip"
    if table not in ("chip", "all") and not Path(table).is_file():
        raise BadInputError(
            f"{TABLE} is {table!r}; give chip, all, or a file with a kernel and its dtypes a line"
        )
    memory = parse_size(environ.get(MEMORY) or DEFAULT_MEMORY)
    return Simulation(int(count), memory, table, protect == "1", faults)


def visible(simulation: Simulation, profile: DeviceProfile, environ: Mapping[str, str]) -> Simulation:
    """The simulation with only those devices that the chip's variable of visible devices leaves.

    Raises BadInputError for an entry that names no simulated device.
    """
    variable = profile.visible_devices_variable
    if variable is None or not environ.get(variable):
        return simulation
    entries = [entry.strip() for entry in environ[variable].split(",") if entry.strip()]
    wrong = [entry for entry in entries if not entry.isdigit() or int(entry) >= simulation.devices]
    if wrong or not entries:
        raise BadInputError(
            f"{variable} is {environ[variable]!r}, but there are {simulation.devices} simulated devices; "
            f"name some of 0 to {simulation.devices - 1}, or set {DEVICES} for more"
        )
    return dataclasses.replace(simulation, devices=len(entries))


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `4GiB` or a plain number. Raises BadInputError; at least 1 MiB."""
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2] or "B"] if match else 0
    if size < 1 << 20:
        raise BadInputError(f"{MEMORY} is {text!r}; give at least 1MiB, for example 512MiB or 4GiB")
    return size


def device_type(profile: DeviceProfile) -> str:
    """The Paddle device type of the simulated device: the chip's where Paddle leaves that name to plugins."""
    return profile.device_type if profile.custom_device else f"sim_{profile.device_type}"


def simulated(profile: DeviceProfile) -> DeviceProfile:
    """The profile as the simulated device has it."""
    kind = device_type(profile)
    return dataclasses.replace(profile, device_type=kind, launcher_variable=f"FLAGS_selected_{kind}s")


def refuse_if_impossible(environ: Mapping[str, str]) -> None:
    """Raise BadInputError where no simulated device can be loaded: another Paddle, or a real plugin."""
    names = {(d.metadata["Name"] or "").lower().replace("_", "-") for d in metadata.distributions()}
    others = sorted(name for name in names if name.startswith(f"{_WHEEL}-"))
    if others or _WHEEL not in names:
        found = ", ".join(others) or "none"
        raise BadInputError(
            f"a simulated device needs the CPU build of Paddle ({_WHEEL}), found: {found}; use an "
            f"environment of its own with `pip install {_WHEEL}`, or leave out --simulate"
        )
    for library in (*custom_libraries.libraries(environ), *custom_libraries.libraries({})):
        if library.stem != simulate_build.LIBRARY:
            raise BadInputError(
                f"a real device's library is here ({library}), and Paddle would load it beside the "
                f"simulated one; use an environment without it (and unset {ROOT}), or leave out --simulate"
            )


def layer(
    simulation: Simulation, profile: DeviceProfile, support: Mapping[str, Any] | None, root: str
) -> Layer:
    """The settings that make Paddle load the simulated device at its import."""
    refused = ",".join(sorted(profile.collective.dtypes_refused)) if profile.collective else ""
    operators = _operators(simulation, support)
    values = {
        ROOT: (root, "the simulated device's library; Paddle loads one folder"),
        TYPE: (device_type(profile), "the device type that the simulated device bears"),
        OPERATORS: (operators, _table_reason(simulation, support)),
        BYTES: (str(simulation.memory_bytes), f"memory of each device ({MEMORY})"),
        DEVICES: (str(simulation.devices), "number of simulated devices"),
        PROTECT: (str(int(simulation.protect)), "1: the host cannot touch device memory, as on a chip"),
        REFUSED: (refused or None, "dtypes that the chip's collectives do not take"),
        FAULTS: (simulation.faults or None, "faults on demand (docs/simulation.md)"),
        VARIABLE: ("1", "programs started from this one are simulated too"),
        "GLOG_minloglevel": ("1", "Paddle reports the loading of a device in seven lines otherwise"),
    }
    environment = {name: Decision(value, reason) for name, (value, reason) in values.items()}
    return Layer(SOURCE, environment)


def _table_reason(simulation: Simulation, support: Mapping[str, Any] | None) -> str:
    if simulation.table == "all":
        return "every kernel of the CPU"
    if simulation.table != "chip":
        return f"the kernels listed in {simulation.table}"
    if support is None or support.get("operators") is None:
        return "the plugin has no table of operators: every kernel of the CPU"
    return f"the chip's kernels: {support.get('source', 'the plugin')}"


def _operators(simulation: Simulation, support: Mapping[str, Any] | None) -> str:
    """`all`, or a file that lists the kernels for the library."""
    if simulation.table not in ("chip", "all"):
        return str(Path(simulation.table).resolve())
    if simulation.table == "all" or support is None or support.get("operators") is None:
        return "all"
    lines = [f"{name} {' '.join(dtypes)}" for name, dtypes in sorted(support["operators"].items())]
    text = "\n".join(lines) + "\n"
    folder = native.cache_dir() / "tables"
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    return str(path)


# -- the simulated device of this process --------------------------------------------------------------


def loaded() -> ModuleType | None:
    """The module of the library that Paddle has loaded, or None where no device is simulated."""
    folder = os.environ.get(ROOT, "")
    path = Path(folder) / f"{simulate_build.LIBRARY}.so"
    return _module(path) if "paddle" in sys.modules and folder and path.is_file() else None


@lru_cache(maxsize=1)
def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(simulate_build.LIBRARY, path)
    assert spec is not None and spec.loader is not None, "a library has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def control() -> Any:
    """The library's module. Raises DeviceError where no device is simulated."""
    module = loaded()
    if module is None:
        raise DeviceError("no device is simulated in this process; start it with --simulate")
    return module


def counters() -> dict[str, Any]:
    """What the simulated device has counted: kernels, fallbacks, copies, collectives, memory, faults."""
    module = control()
    rows = module.kernels()
    return {
        "kernels": {f"{r['kernel']}:{r['dtype']}": r["calls"] for r in rows if r["calls"]},
        "fallbacks": {
            f"{r['kernel']}:{r['dtype']}": {"calls": r["fallbacks"], "bytes": r["bytes_in"] + r["bytes_out"]}
            for r in rows
            if r["fallbacks"]
        },
        "copies": module.copies(),
        "collectives": module.collectives(),
        "rejected": module.rejections(),
        "memory": [module.memory(index) for index in range(module.devices())],
        "faults": module.faults(),
    }


def reset_counters() -> None:
    control().reset_counters()


def add_faults(text: str) -> None:
    """Make faults from now on. Raises BadInputError for an unknown one."""
    check_faults(text)
    control().add_faults(text)


def clear_faults() -> None:
    control().clear_faults()
