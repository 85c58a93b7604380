"""Build the simulated device against the installed Paddle: signatures, wrappers, library.

The signatures of Paddle's CPU kernels are read from Paddle itself in a child process; a wrapper is generated
for every kernel and dtype, and all of it becomes one library in the cache, in a folder of its own, which is
what CUSTOM_DEVICE_ROOT takes.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

from mix_core.device import native
from mix_core.device.native_build import openmp_folder
from mix_core.errors import DeviceError

LIBRARY = "libmix_sim"
FLAGS = ("-O2", "-DPADDLE_WITH_CUSTOM_DEVICE", "-D_GLIBCXX_USE_CXX11_ABI=1", "-fvisibility-inlines-hidden")
WRAPPER_FLAGS = "#pragma GCC optimize(1)"
"""Wrappers only pass arguments on; optimised less, they compile in half the time."""
FLOAT32, HALVES = 10, (15, 16)
"""Numbers of phi::DataType. A kernel that exists in float32 serves float16 and bfloat16 too, widened."""
PARTS = 4
"""Files of wrappers, for compiling side by side."""


def place() -> Path:
    """Where the library for the installed Paddle lies once it is built, alone in its folder.

    Raises DeviceError without a compiler, without sources and without Paddle.
    """
    own, flags = _inputs()
    compiler, _ = native.find_compiler()
    assert compiler is not None, "_inputs() has asked for one"
    key = native.build_key([*sorted(own.glob("*.cc")), Path(__file__)], flags, compiler)
    return native.cache_dir() / f"sim-{key}" / "root" / f"{LIBRARY}.so"


def library() -> Path:
    """The simulator's library, built where this machine has not done so.

    Raises DeviceError as `place` does, and when the compiler fails.
    """
    done = place()
    if done.is_file():
        return done
    own, flags = _inputs()
    folder = done.parent.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"the simulated device cannot be built: {folder} cannot be made ({error}); "
            f"set {native.CACHE_VARIABLE}"
        ) from error
    with native.locked(folder / "lock"):
        if not done.is_file():
            print(
                "mix-core: building the simulated device, once for this Paddle (about a minute)",
                file=sys.stderr,
            )
            generated = _generate(own, flags, folder)
            sources = [path for path in sorted(own.glob("*.cc")) if path.name != "signatures.cc"]
            made = native.build(LIBRARY, [*generated, *sources], flags)
            done.parent.mkdir(exist_ok=True)
            scratch = done.with_suffix(".new")
            scratch.unlink(missing_ok=True)
            os.link(made, scratch)
            os.replace(scratch, done)
    return done


def _inputs() -> tuple[Path, tuple[str, ...]]:
    """The folder of the sources and the flags."""
    status, root, paddle = native.status(), native.source_dir(), native.paddle_folder()
    if not status.possible or root is None or paddle is None:
        raise DeviceError(f"the simulated device cannot be built: {status.reason}")
    return root / "sim", _flags(root, paddle)


def _flags(root: Path, paddle: Path) -> tuple[str, ...]:
    include = [paddle / "include", paddle / "include" / "third_party", Path(sysconfig.get_path("include"))]
    system = tuple(part for folder in include for part in ("-isystem", str(folder)))
    base, libs = paddle / "base", paddle / "libs"
    return (
        *(*FLAGS, f"-I{root}", *system),
        *(
            "-fopenmp",
            f"-L{openmp_folder(libs)}",
            f"-L{base}",
            f"-L{libs}",
            f"-Wl,-rpath,{base}",
            f"-Wl,-rpath,{libs}",
        ),
        *("-l:libpaddle.so", "-l:libphi_core.so", "-l:libcommon.so", "-pthread"),
    )


def _generate(own: Path, flags: tuple[str, ...], folder: Path) -> list[Path]:
    """The files of wrappers for the kernels of the installed Paddle."""
    reader = native.build("libmix_signatures", [own / "signatures.cc"], ("-O0", *flags))
    listing = folder / "signatures.txt"
    done = subprocess.run(
        [sys.executable, "-m", "mix_core.device.simulate_build", str(reader), str(listing)],
        env={name: value for name, value in os.environ.items() if name != "CUSTOM_DEVICE_ROOT"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DeviceError(f"the simulated device cannot be built: Paddle's kernels cannot be listed: {last}")
    files = []
    for number, text in enumerate(wrapper_sources(listing.read_text(encoding="ascii"))):
        path = folder / f"wrappers_{number}.cc"
        path.write_text(text, encoding="ascii")
        files.append(path)
    return files


def wrapper_sources(listing: str) -> list[str]:
    """C++ that instantiates a wrapper for each kernel and dtype of a listing (csrc/sim/signatures.cc)."""
    by_signature: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in listing.splitlines():
        name, types, dtypes = line.split("\t")
        by_signature[types].append((name, dtypes))
    parts: list[tuple[list[str], list[str]]] = [([], []) for _ in range(PARTS)]
    number = 0
    for position, (types, kernels) in enumerate(sorted(by_signature.items())):
        aliases, rows = parts[position % PARTS]
        aliases.append(f"using S{position} = Delegate<{types}>;")
        for name, dtypes in sorted(kernels):
            known = {int(word) for word in dtypes.split()}
            for dtype in sorted(known | set(HALVES) if FLOAT32 in known else known):
                rows.append(f'    Bind<S{position}, {number}>::wrapper("{name}", {dtype}),')
                number += 1
    return [_source(aliases, rows) for aliases, rows in parts]


def _source(aliases: list[str], rows: list[str]) -> str:
    lines = [
        "// Generated from the kernels of the installed Paddle.",
        WRAPPER_FLAGS,
        '#include "sim/wrapper.h"',
        "namespace mix::sim {",
        "namespace {",
        *aliases,
        "const bool added = [] {",
        "  for (const auto& one : std::initializer_list<Wrapper>{",
        *rows,
        "  }) wrappers().push_back(one);",
        "  return true;",
        "}();",
        "}  // namespace",
        "}  // namespace mix::sim",
    ]
    return "\n".join(lines) + "\n"


def _write_signatures(reader: str, listing: str) -> int:
    import paddle  # noqa: F401 (its kernels are registered by the import)

    return int(ctypes.CDLL(reader).mix_sim_write_signatures(listing.encode()))


if __name__ == "__main__":
    sys.exit(_write_signatures(sys.argv[1], sys.argv[2]))
