"""Where CANN is on this machine, and the variables that its `set_env.sh` would set from there.

Only files are looked at. Folders that do not exist are left out of the path lists, so that CANN releases with
other layouts get what they have.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from mix_core.plugin_api import Decision, version_in_file

HOME_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
PLACES = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "~/Ascend/ascend-toolkit/latest",
    "~/Ascend/cann",
)
"""Where CANN's installers, up to 8.3 and later ones, put the toolkit for root and for another user."""
DRIVER_FOLDER = Path("/usr/local/Ascend/driver")

_LIBRARIES = (
    "lib64",
    "lib64/plugin/opskernel",
    "lib64/plugin/nnengine",
    f"opp/built-in/op_impl/ai_core/tbe/op_tiling/lib/linux/{platform.machine()}",
    "tools/aml/lib64",
    "tools/aml/lib64/plugin",
)
_DRIVER_LIBRARIES = ("lib64", "lib64/common", "lib64/driver")
_PYTHON = ("python/site-packages", "opp/built-in/op_impl/ai_core/tbe")
_PROGRAMS = ("bin", "compiler/ccec_compiler/bin", "tools/ccec_compiler/bin")
_VERSION = r"(?m)^version=(\S+)"


def find_toolkit(environ: Mapping[str, str] | None = None, places: Iterable[str] = PLACES) -> Path | None:
    """The toolkit's folder: what the user's variables name, else a usual place; None where there is none."""
    environ = os.environ if environ is None else environ
    named = [environ[name] for name in HOME_VARIABLES if environ.get(name)]
    for place in (*named, *places):
        folder = Path(place).expanduser()
        if (folder / "lib64").is_dir():
            return folder
    return None


def toolkit_version(toolkit: Path) -> str | None:
    """CANN's version (8.0.RC1) from the file its installer leaves, or None."""
    files = (f"{platform.machine()}-linux", "arm64-linux", "")
    found = (version_in_file(toolkit / part / "ascend_toolkit_install.info", _VERSION) for part in files)
    return next((version for version in found if version), None)


def toolchain_variables(toolkit: Path, driver: Path = DRIVER_FOLDER) -> dict[str, Decision]:
    """What `source set_env.sh` does, for a toolkit found in this folder."""
    why = f"CANN is in {toolkit}; its set_env.sh sets this"
    libraries = _existing(toolkit, _LIBRARIES) + _existing(driver, _DRIVER_LIBRARIES)
    lists = {
        "LD_LIBRARY_PATH": Decision(libraries, f"{why}, and the driver's libraries", "process"),
        "PYTHONPATH": Decision(
            _existing(toolkit, _PYTHON), f"{why}: the operator compiler is Python", "process"
        ),
        "PATH": Decision(_existing(toolkit, _PROGRAMS), f"{why}: the operator compiler's programs"),
    }
    folders = {
        "ASCEND_TOOLKIT_HOME": toolkit,
        "ASCEND_HOME_PATH": toolkit,
        "ASCEND_AICPU_PATH": toolkit,
        "ASCEND_OPP_PATH": toolkit / "opp",
        "TOOLCHAIN_HOME": toolkit / "toolkit",
    }
    scalars = {name: Decision(str(folder), why) for name, folder in folders.items()}
    return {name: decision for name, decision in lists.items() if decision.value} | scalars


def _existing(root: Path, parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(root / part) for part in parts if (root / part).is_dir())
