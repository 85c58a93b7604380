"""Compile the C++ operators of csrc against the Paddle that is installed, once, and load them.

Two libraries: `libmix_kernels.so` holds the Paddle-free kernels and is linked with every symbol resolved, so
that an OpenMP entry point the wheel's own runtime lacks fails here and never binds to a second runtime;
`libmix_ops.so` registers them with Paddle. The folder is named by a hash of all that the machine code depends
on, is built beside its place under a lock, and is renamed into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mix_core.device.native import source_dir

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",  # lets selections become vector blends
    "-DPADDLE_WITH_CUSTOM_KERNEL",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
)
BLAS = "libmklml_intel.so"
OPENMP = "libiomp5.so"
COMPILE_TIMEOUT_S = 600


@dataclass(frozen=True)
class NativeState:
    """Where the built operators are, or why there are none."""

    library: Path | None
    reason: str


def compiler() -> str | None:
    """The C++ compiler as a path: $CXX, else g++, else clang++; None when the machine has none."""
    wanted = os.environ.get("CXX")
    if wanted:
        return shutil.which(shlex.split(wanted)[0])
    return shutil.which("g++") or shutil.which("clang++")


def cache_dir() -> Path:
    """Where built libraries are kept: $MIX_CACHE/native, by default ~/.cache/mix_core/native."""
    root = os.environ.get("MIX_CACHE") or str(Path.home() / ".cache" / "mix_core")
    return Path(root) / "native"


def _paddle_root() -> Path:
    import paddle

    return Path(paddle.__file__).parent


def _sources(root: Path) -> list[Path]:
    found = [p for pattern in ("ops/*.cc", "ops/*.h", "include/mix/*.h") for p in root.glob(pattern)]
    return sorted(found)


def build_key(root: Path, cxx: str) -> str:
    """Hash of the sources, flags, compiler, Python and Paddle that decide the machine code."""
    import paddle

    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, timeout=30, check=False)
    parts = [paddle.version.full_version, paddle.version.commit, cxx, version.stdout, *FLAGS]
    parts += [sys.implementation.cache_tag or "", sysconfig.get_platform()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in _sources(root):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], cwd: Path) -> str | None:
    """None when the command succeeded, else its first error line."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in lines if "error" in line or "undefined" in line), lines[-1])


def _compile(root: Path, out: Path, cxx: str) -> str | None:
    paddle_root = _paddle_root()
    libs = paddle_root / "libs"
    include = [f"-I{root}", f"-I{root / 'include'}"]
    for folder in (paddle_root / "include", paddle_root / "include" / "third_party"):
        include += ["-isystem", str(folder)]
    include += ["-isystem", sysconfig.get_path("include")]
    units = sorted((root / "ops").glob("*.cc"))
    objects = {unit: out / f"{unit.stem}.o" for unit in units}
    commands = [[cxx, *FLAGS, *include, "-c", str(u), "-o", str(o)] for u, o in objects.items()]
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8))) as pool:
        failures = [f for f in pool.map(lambda command: _run(command, root), commands) if f]
    if failures:
        return failures[0]
    bindings = [str(o) for o in objects.values() if o.stem.endswith("_op")]
    kernels = [str(o) for o in objects.values() if not o.stem.endswith("_op")]
    search = [f"-L{libs}", f"-Wl,-rpath,{libs}"]
    link_kernels = [cxx, "-shared", "-Wl,-z,defs", "-o", str(out / "libmix_kernels.so"), *kernels]
    link_kernels += [*search, f"-l:{OPENMP}", f"-l:{BLAS}"]
    base = paddle_root / "base"
    link_ops = [cxx, "-shared", "-o", str(out / "libmix_ops.so"), *bindings, f"-L{out}", "-lmix_kernels"]
    link_ops += ["-Wl,-rpath,$ORIGIN", *search, f"-L{base}", f"-Wl,-rpath,{base}"]
    link_ops += ["-l:libpaddle.so", "-l:libphi_core.so", "-l:libcommon.so"]
    return _run(link_kernels, out) or _run(link_ops, out)


def build() -> NativeState:
    """Return the built operators, compiling them when this machine has not done so for these sources."""
    root = source_dir()
    if root is None:
        return NativeState(None, "the C++ sources are not in this installation")
    cxx = compiler()
    if cxx is None:
        return NativeState(None, "no C++ compiler was found (g++ or clang++, or set CXX)")
    missing = [name for name in (BLAS, OPENMP) if not (_paddle_root() / "libs" / name).exists()]
    if missing:
        return NativeState(None, f"this build of Paddle carries no {' and no '.join(missing)}")
    try:
        place = cache_dir() / build_key(root, cxx)
        library = place / "libmix_ops.so"
        if library.exists():
            return NativeState(library, "built earlier")
        with _locked(place.with_suffix(".lock")):
            if library.exists():
                return NativeState(library, "built by another process")
            return _build_into(place, root, cxx)
    except OSError as error:
        return NativeState(None, f"the build folder cannot be used: {error}")


def _build_into(place: Path, root: Path, cxx: str) -> NativeState:
    print("mix-core: compiling the CPU kernels, once (about 10 s)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=place.name) as temporary:
        out = Path(temporary) / "build"
        out.mkdir()
        failure = _compile(root, out, cxx)
        if failure is not None:
            return NativeState(None, f"the compiler failed: {failure}")
        for rest in out.glob("*.o"):
            rest.unlink()
        os.replace(out, place)
    return NativeState(place / "libmix_ops.so", f"built with {cxx}")


def load() -> NativeState:
    """Build where needed and register the operators with Paddle; at most once a process."""
    global _loaded
    if _loaded is None:
        state = build()
        if state.library is not None:
            from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

            load_op_meta_info_and_register_op(str(state.library))
        else:
            print(f"mix-core: CPU kernels are off, the references run: {state.reason}", file=sys.stderr)
        _loaded = state
    return _loaded


_loaded: NativeState | None = None
