"""What is known here of an installed custom device of Paddle: its library and the kernels that it brings.

Paddle tells both, once it has loaded the library; so each library is loaded in a process of its own:
`python -m mix_core.scaffold.custom_device FILE` writes the types, and kernel to dtypes for each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mix_core.device import custom_libraries, native
from mix_core.device.custom_libraries import ROOT
from mix_core.errors import BadInputError

_KEY = re.compile(r"\((\w+), .*, (\w+)\)")  # (acme, Undefined(AnyLayout), float32)
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class CustomDevice:
    """One device type that a library provides."""

    type: str
    library: Path
    paddle: str
    """The version of Paddle that loaded it."""
    operators: Mapping[str, list[str]] = field(default_factory=dict)
    """Kernel to dtypes."""


def find_custom_device(kind: str, environ: Mapping[str, str]) -> CustomDevice:
    """The installed custom device of this type.

    Raises BadInputError where no library provides it, one does not load, or Paddle is not installed.
    """
    if native.paddle_folder() is None:
        raise BadInputError(
            f"the custom device {kind!r} cannot be looked up: no Paddle is installed; install the one that "
            "its library was built for"
        )
    custom_libraries.refuse_if_broken(environ)
    found: dict[str, Path] = {}
    for library in custom_libraries.libraries(environ):
        answer = _ask(library, environ)
        if kind in answer["types"]:
            return CustomDevice(kind, library, answer["paddle"], answer["types"][kind])
        found |= dict.fromkeys(answer["types"], library)
    names = ", ".join(f"{name} ({library.name})" for name, library in sorted(found.items())) or "none"
    raise BadInputError(
        f"no custom device of type {kind!r} is installed; found: {names}; install its library, set {ROOT} to "
        "the library's folder, or leave out --from-custom-device"
    )


def _ask(library: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """What Paddle says of this one library, alone in a folder. Raises BadInputError where it says nothing."""
    with tempfile.TemporaryDirectory(prefix="mix-custom-") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        (folder / "root" / library.name).symlink_to(library.resolve())
        path = folder / "answer.json"
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", __name__, str(path)],
                env={**environ, ROOT: str(folder / "root")},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise BadInputError(f"{library} does not load: not done after {TIMEOUT_S:g} s") from None
        if done.returncode != 0 or not path.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BadInputError(f"{library} does not tell its device type: {last}")
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return answer


def by_type(registered: Mapping[str, Any], types: list[str]) -> dict[str, dict[str, list[str]]]:
    """Paddle's list, kernel to keys, as device type to kernel to dtypes, sorted."""
    found: dict[str, dict[str, set[str]]] = {kind: {} for kind in types}
    for kernel, keys in registered.items():
        for match in filter(None, map(_KEY.fullmatch, keys)):
            if match[1] in found:
                found[match[1]].setdefault(kernel, set()).add(match[2])
    return {
        kind: {name: sorted(kernels[name]) for name in sorted(kernels)} for kind, kernels in found.items()
    }


def _write_answer(path: Path) -> None:
    import paddle
    from paddle import base

    core: Any = base.core
    types = list(paddle.device.get_all_custom_device_type() or ())
    kernels = by_type(core._get_registered_phi_kernels("function"), types)
    path.write_text(json.dumps({"paddle": paddle.__version__, "types": kernels}), encoding="utf-8")


if __name__ == "__main__":
    _write_answer(Path(os.path.abspath(sys.argv[1])))
