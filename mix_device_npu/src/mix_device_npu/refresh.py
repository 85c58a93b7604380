"""Refresh operators.json, the table of the chip's native kernels, from a checkout of PaddleCustomDevice.

`python -m mix_device_npu.refresh CHECKOUT [--write]` reads the registration macros under
CHECKOUT/backends/npu/kernels and prints what changed; with --write it writes the table beside this file.
Macros that wrap PD_REGISTER_PLUGIN_KERNEL are expanded, and both sides of #if are taken.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mix_core.plugin_api import BadInputError
from mix_device_npu.operators import TABLE, read_table

REGISTER = "PD_REGISTER_PLUGIN_KERNEL"
BACKEND = "npu"
KERNELS = Path("backends") / BACKEND / "kernels"

DTYPES = {
    "float": "float32",
    "double": "float64",
    "phi::dtype::float16": "float16",
    "phi::float16": "float16",
    "phi::dtype::bfloat16": "bfloat16",
    "phi::bfloat16": "bfloat16",
    "int8_t": "int8",
    "uint8_t": "uint8",
    "int16_t": "int16",
    "int": "int32",
    "int32_t": "int32",
    "int64_t": "int64",
    "bool": "bool",
    "phi::dtype::complex<float>": "complex64",
    "phi::complex64": "complex64",
    "phi::dtype::complex<double>": "complex128",
    "phi::complex128": "complex128",
}
"""C++ types of a registration, and Paddle's names; in this order they stand in the table."""
ORDER = list(dict.fromkeys(DTYPES.values()))

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"#\s*define\s+(\w+)\(([^)]*)\)(.*)")
_DIRECTIVE = re.compile(r"^\s*#.*$", re.MULTILINE)


def read_kernels(checkout: Path) -> dict[str, list[str]]:
    """Kernel name to its dtypes, from a checkout's sources. Raises BadInputError where there is none."""
    folder = checkout / KERNELS
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".cc", ".cpp", ".h"))
    if not files:
        raise BadInputError(f"{folder} holds no C++ file: give the root of a PaddleCustomDevice checkout")
    found: dict[str, set[str]] = {}
    for path in files:
        for name, dtypes in registrations(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, set()).update(dtypes)
    if not found:
        raise BadInputError(f"no {REGISTER} for {BACKEND} in {len(files)} files under {folder}")
    return {name: sorted(found[name], key=ORDER.index) for name in sorted(found)}


def registrations(text: str) -> Iterator[tuple[str, list[str]]]:
    """(kernel, dtypes) of every registration in one C++ file. Raises BadInputError for an unknown type."""
    text = _COMMENT.sub("", text).replace("\\\n", " ")
    macros = {
        name: (_split(parameters), body)
        for name, parameters, body in _DEFINE.findall(text)
        if REGISTER in body
    }
    text = _DIRECTIVE.sub("", text)
    for macro, (parameters, body) in macros.items():
        for arguments in _calls(text, macro):
            text += "\n" + _expand(body, parameters, arguments)
    for name, backend, _layout, _function, *types in _calls(text, REGISTER):
        if backend != BACKEND:
            continue
        unknown = [kind for kind in types if kind not in DTYPES]
        if unknown:
            raise BadInputError(
                f"{REGISTER}({name}): unknown type {unknown[0]!r}; add it to DTYPES in refresh.py"
            )
        yield name, [DTYPES[kind] for kind in types]


def _expand(body: str, parameters: list[str], arguments: list[str]) -> str:
    for parameter, argument in zip(parameters, arguments):
        body = re.sub(rf"\b{re.escape(parameter)}\b", argument, body)
    return re.sub(r"\s*##\s*", "", body)


def _calls(text: str, macro: str) -> Iterator[list[str]]:
    """The arguments of every use of a macro."""
    for match in re.finditer(rf"\b{macro}\s*\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield _split(text[match.end() : end - 1])


def _split(arguments: str) -> list[str]:
    """Split at the commas outside of brackets; empty parts (a trailing comma) are left out."""
    parts, depth = [""], 0
    for mark in arguments:
        depth += {"(": 1, "<": 1, ")": -1, ">": -1}.get(mark, 0)
        if mark == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += mark
    return [re.sub(r"\s+", "", part) for part in parts if part.strip()]


def make_table(checkout: Path) -> dict[str, Any]:
    """The whole table, with the commit and date of the checkout where git tells them."""
    operators = read_kernels(checkout)
    log = subprocess.run(
        ["git", "-C", str(checkout), "log", "-1", "--format=%H %cs"], capture_output=True, text=True
    )
    commit, _, date = log.stdout.strip().partition(" ") if log.returncode == 0 else ("unknown", "", "unknown")
    return {
        "source": "registration macros under backends/npu/kernels of "
        "https://github.com/PaddlePaddle/PaddleCustomDevice, both sides of #if taken",
        "commit": commit,
        "date": date,
        "operators": operators,
    }


def differences(old: Mapping[str, list[str]], new: Mapping[str, list[str]]) -> list[str]:
    """One line for each operator that came, went or changed its dtypes."""
    lines = [f"+ {name}: {' '.join(new[name])}" for name in sorted(new.keys() - old.keys())]
    lines += [f"- {name}" for name in sorted(old.keys() - new.keys())]
    changed = (name for name in sorted(old.keys() & new.keys()) if old[name] != new[name])
    return lines + [f"! {name}: {' '.join(old[name])} -> {' '.join(new[name])}" for name in changed]


def write_table(table: Mapping[str, Any], path: Path) -> None:
    """One operator a line, so that a refresh reads well in a diff."""
    head = {key: value for key, value in table.items() if key != "operators"}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table["operators"].items())
    text = json.dumps(head, indent=1).rstrip("\n}") + ',\n "operators": {\n' + lines + "\n }\n}\n"
    path.write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mix_device_npu.refresh", description=__doc__)
    parser.add_argument("checkout", type=Path, help="root of a PaddleCustomDevice checkout")
    parser.add_argument("--write", action="store_true", help="write the table beside this file")
    options = parser.parse_args(argv)
    try:
        table = make_table(options.checkout)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    old = read_table()["operators"] if TABLE.exists() else {}
    lines = differences(old, table["operators"])
    print(
        "\n".join([*lines, f"{len(table['operators'])} kernels at {table['commit']}, {len(lines)} changes"])
    )
    if options.write:
        write_table(table, TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
