"""Make `operators.json` anew from a checkout of Paddle: `python -m mix_device_xpu.refresh PATH`.

PATH is paddle/phi/backends/xpu/xpu3_op_list.cc. Needs a Paddle to tell kernel names by (any wheel of it).
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from mix_device_xpu.operators import FILE, LEGACY_NAMES

SOURCE = "paddle/phi/backends/xpu/xpu3_op_list.cc of github.com/PaddlePaddle/Paddle"
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ROW = re.compile(r'\{\s*"(\w+)"\s*,\s*XPUKernelSet\(\{([^}]*)\}\)\s*\}')
_DTYPE = re.compile(r"DataType::(\w+)")
_DTYPES = {
    "FLOAT64": "float64",
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT16": "int16",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
    "COMPLEX64": "complex64",
    "COMPLEX128": "complex128",
}


def parse(text: str) -> dict[str, set[str]]:
    """Names of the list to dtypes. Raises ValueError for a text without rows and for an unknown dtype."""
    listed: dict[str, set[str]] = {}
    for name, types in _ROW.findall(_COMMENT.sub("", text)):
        found = _DTYPE.findall(types)
        unknown = [dtype for dtype in found if dtype not in _DTYPES]
        if unknown or not found:
            raise ValueError(
                f'the row of "{name}" has the dtypes {unknown or "none"}, which are not known here'
            )
        listed.setdefault(name, set()).update(_DTYPES[dtype] for dtype in found)
    if not listed:
        raise ValueError('no row of the form {"name", XPUKernelSet({phi::DataType::...})} was found')
    return listed


def table(
    listed: Mapping[str, Set[str]], kernels: Set[str], kernel_name: Callable[[str], str]
) -> dict[str, Any]:
    """The file's `operators`, `legacy_names` and `chip_only`.

    `kernels` are the names of Paddle's kernels; `kernel_name` gives an old operator's kernel.
    """
    operators: dict[str, set[str]] = {}
    legacy = {}
    for name, dtypes in listed.items():
        # the map of old names first: "matmul" of the list is an old operator, not today's kernel
        known = kernel_name(name)
        kernel = LEGACY_NAMES.get(name, known if known in kernels else name)
        operators.setdefault(kernel, set()).update(dtypes)
        if kernel != name:
            legacy[name] = kernel
    return {
        "chip_only": sorted(set(operators) - kernels),
        "legacy_names": dict(sorted(legacy.items())),
        "operators": {kernel: sorted(dtypes) for kernel, dtypes in sorted(operators.items())},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mix_device_xpu.refresh", description=__doc__)
    parser.add_argument("path", type=Path, help="xpu3_op_list.cc of a Paddle checkout")
    parser.add_argument("--commit", default="", help="commit of that checkout, for the record")
    parser.add_argument("--output", type=Path, default=FILE, help="file to write")
    given = parser.parse_args(arguments)
    try:
        listed = parse(given.path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"mix_device_xpu.refresh: {given.path}: {error}", file=sys.stderr)
        return 2
    from paddle.base import core

    made = table(listed, set(core._get_registered_phi_kernels("all")), core._get_phi_kernel_name)
    head = {"source": SOURCE, "commit": given.commit, "date": datetime.date.today().isoformat()}
    given.output.write_text(json_text(head | made), encoding="utf-8")
    print(f"{given.output}: {len(made['operators'])} kernels, {len(made['chip_only'])} on the chip alone")
    return 0


def json_text(made: Mapping[str, Any]) -> str:
    """JSON with one kernel a line, so that a refresh is a readable diff."""
    parts = []
    for key, value in made.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in value.items())
            text = f"{{\n{rows}\n  }}"
        else:
            text = json.dumps(value, indent=4).replace("\n]", "\n  ]")
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
