"""Build and load the C++ operators of the CPU, once a process.

Two libraries: `mix_kernels` holds the Paddle-free kernels and is linked with every symbol resolved, so that
an OpenMP entry point the wheel's own runtime lacks fails here and never binds to a second runtime;
`mix_ops` registers them with Paddle.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mix_core.device import cpu_heap, native
from mix_core.errors import BadInputError, DeviceError

BLAS = "libmklml_intel.so"
OPENMP = "libiomp5.so"
FLAGS = (
    "-O3",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",  # lets selections become vector blends
)
SET_VARIABLE = "MIX_CPU_ISA"
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "amx")
"""What the kernels are compiled for, as csrc/ops/instruction_set.cc counts them."""
PADDLE_FLAGS = ("-DPADDLE_WITH_CUSTOM_KERNEL", "-D_GLIBCXX_USE_CXX11_ABI=1")


@dataclass(frozen=True)
class NativeOps:
    """Where the built operators are, or why there are none."""

    library: Path | None
    reason: str
    kernels: ctypes.CDLL | None = None
    """The Paddle-free library, for kernels that autograd must not see."""


@lru_cache(maxsize=1)
def load() -> NativeOps:
    """Build the operators where this machine has not done so, and register them with Paddle.

    What stands in the way is a reason, said once; only an unknown MIX_CPU_ISA or MIX_CPU_HEAP is an error
    (BadInputError).
    """
    refuse_unknown_set()
    cpu_heap.refuse_unknown()
    try:
        kernels, library = build()
        found = NativeOps(library, f"built from {native.source_dir()}", ctypes.CDLL(str(kernels)))
    except DeviceError as error:
        found = NativeOps(None, str(error))
    if found.library is None:
        print(f"mix-core: no CPU kernels, the reference operators run: {found.reason}", file=sys.stderr)
    else:
        from paddle.base import core

        core.load_op_meta_info_and_register_op(str(found.library))
        _place_tensors(found.library)
    return found


def _place_tensors(library: Path) -> None:
    """On a CPU, let tensors lie in our heap.

    On a simulated device, tell the operators, which stand in for its own, where the host sees its memory.
    """
    from mix_core.device import simulate

    device = simulate.loaded()
    if device is None:
        return cpu_heap.use(library)
    view = zip((ctypes.c_size_t, ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_void_p), device.host_view())
    ctypes.CDLL(str(library)).mix_set_host_view(*(kind(value) for kind, value in view))


def refuse_unknown_set() -> None:
    """Raise BadInputError where MIX_CPU_ISA names no instruction set."""
    wanted = os.environ.get(SET_VARIABLE)
    if wanted is not None and wanted not in INSTRUCTION_SETS:
        raise BadInputError(
            f"{SET_VARIABLE} is {wanted!r}, expected {', '.join(INSTRUCTION_SETS)}; unset it for the best"
        )


def instruction_set() -> str:
    """The instruction set that the loaded kernels use, and why: `avx2 (this processor has no avx512)`."""
    library = load().kernels
    if library is None:
        return "none"
    used = INSTRUCTION_SETS[library.mix_instruction_set()]
    wanted = os.environ.get(SET_VARIABLE)
    if wanted and used != wanted:
        return f"{used} ({SET_VARIABLE}={wanted}, which this processor has not)"
    return f"{used} ({SET_VARIABLE})" if wanted else f"{used} (the best that this processor has)"


def build() -> Iterator[Path]:
    """Build the library of kernels, then that of their registration; each is built when it is asked for.

    Raises DeviceError where that is not possible, with the compiler's error where it fails.
    """
    status, root, paddle = native.status(), native.source_dir(), native.paddle_folder()
    if not status.possible or root is None or paddle is None:
        raise DeviceError(status.reason)
    libs = paddle / "libs"
    missing = [name for name in (BLAS, OPENMP) if not (libs / name).is_file()]
    if missing:
        raise DeviceError(f"this build of Paddle carries no {' and no '.join(missing)}")
    search = (f"-L{openmp_folder(libs)}", f"-L{libs}", f"-Wl,-rpath,{libs}")
    include = (f"-I{root}", f"-I{root / 'include'}")
    units = sorted((root / "ops").glob("*.cc"))
    kernels = native.build(
        "libmix_kernels",
        [unit for unit in units if not unit.stem.endswith("_op")],
        (*FLAGS, *include, "-Wl,-z,defs", *search, f"-l:{BLAS}"),
    )
    yield kernels
    of_paddle = [paddle / "include", paddle / "include" / "third_party", Path(sysconfig.get_path("include"))]
    system = tuple(part for folder in of_paddle for part in ("-isystem", str(folder)))
    base = paddle / "base"
    bindings = (
        *(*FLAGS, *PADDLE_FLAGS, *include, *system, "-fno-openmp"),
        *(f"-L{kernels.parent}", f"-Wl,-rpath,{kernels.parent}", f"-l:{kernels.name}"),
        *(*search, f"-L{base}", f"-Wl,-rpath,{base}"),
        *("-l:libpaddle.so", "-l:libphi_core.so", "-l:libcommon.so"),
    )
    registered = [unit for unit in units if unit.stem.endswith("_op")]
    yield native.build("libmix_ops", registered, bindings, joined=True)


def openmp_folder(libs: Path) -> Path:
    """A folder in which the linker finds Paddle's OpenMP runtime under the compiler's name for its own.

    `-fopenmp` makes the compiler link libgomp, and what Paddle's runtime lacks would bind there.
    """
    folder = native.cache_dir() / f"openmp-{hashlib.sha256(str(libs).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libgomp.so", "libomp.so"):
        (folder / name).write_text(f"INPUT({libs / OPENMP})\n", encoding="utf-8")
    return folder
