"""Find the C++ sources, the compiler and the place of what was built from them; build under a file lock.

A library is built against the Paddle that is installed and kept in the cache folder under a key of everything
that shapes it: Paddle's version and commit, the compiler, the flags and the sources. Without a compiler the
reference operators run, and `status` says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mix_core.errors import DeviceError

CACHE_VARIABLE = "MIX_CACHE"
COMPILER_VARIABLE = "CXX"
COMPILERS = ("g++", "c++")
MINIMUM_GCC = (9, 0)
"""Paddle's headers need C++17 as GCC 9 has it."""
_HEADERS = (".h", ".inc")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler of this machine."""

    path: str
    version: str
    """First line of `--version`."""


def source_dir() -> Path | None:
    """The folder of the C++ sources: inside the package (wheel), else beside it (checkout); None without."""
    package = Path(__file__).resolve().parents[1]
    if (package / "csrc").is_dir():
        return package / "csrc"
    checkout = package.parent
    if (checkout / "csrc").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "csrc"
    return None


def find_compiler() -> tuple[Compiler | None, str]:
    """The compiler to use ($CXX, else the usual names) and its version; or None and why there is none."""
    names = (os.environ[COMPILER_VARIABLE],) if os.environ.get(COMPILER_VARIABLE) else COMPILERS
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            shown = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            return None, f"{path} --version fails: {error}"
        line = shown.stdout.splitlines()[0] if shown.stdout else "unknown version"
        return _judge(Compiler(path, line), "Free Software Foundation" in shown.stdout)
    return (
        None,
        f"no C++ compiler: none of {', '.join(names)} is in PATH; install g++ or set {COMPILER_VARIABLE}",
    )


def _judge(compiler: Compiler, is_gcc: bool) -> tuple[Compiler | None, str]:
    match = re.search(r"(\d+)\.(\d+)(?:\.\d+)?\s*$", compiler.version)
    if is_gcc and match and (int(match[1]), int(match[2])) < MINIMUM_GCC:
        return None, f"{compiler.version} is too old; GCC {MINIMUM_GCC[0]} or newer is needed"
    return compiler, f"{compiler.version} ({compiler.path})"


def paddle_identity() -> str | None:
    """Version and commit of the installed Paddle, read from its files without importing it."""
    folder = paddle_folder()
    if folder is None:
        return None
    try:
        text = (folder / "version" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = dict(re.findall(r"^(full_version|commit)\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    return f"{found.get('full_version', 'unknown')}+{found.get('commit', 'unknown')}"


def paddle_folder() -> Path | None:
    """The folder of the installed package `paddle`, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec("paddle")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def cache_dir() -> Path:
    """Where built libraries are kept: $MIX_CACHE/native, by default ~/.cache/mix_core/native."""
    base = os.environ.get(CACHE_VARIABLE)
    return (Path(base) if base else Path.home() / ".cache" / "mix_core") / "native"


def build_key(sources: Sequence[Path], flags: Sequence[str], compiler: Compiler) -> str:
    """The key of a library: equal only when everything that shapes it is equal.

    All headers of the shared folder and of the sources' own count, so that none can be forgotten.
    """
    digest = hashlib.sha256()
    python = sysconfig.get_config_var("SOABI") or ""
    for text in (paddle_identity() or "", compiler.path, compiler.version, python, *flags):
        digest.update(text.encode() + b"\0")
    root = source_dir()
    folders = {path.parent for path in sources} | ({root / "include"} if root else set())
    headers = sorted({p for folder in folders for p in folder.rglob("*") if p.suffix in _HEADERS})
    for path in (*sources, *headers):
        name = path.relative_to(root) if root and path.is_relative_to(root) else path.name
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def build(
    name: str,
    sources: Sequence[Path],
    flags: Sequence[str] = (),
    *,
    joined: bool = False,
    timeout_s: float = 600.0,
) -> Path:
    """Return the shared library `name` built from `sources`, from the cache where it is already there.

    joined: compile them as one, where reading the headers that they share takes longer than all else.
    Concurrent processes wait for the one that builds. Raises DeviceError without a compiler, and with the
    compiler's first error when it fails.
    """
    compiler, reason = find_compiler()
    if compiler is None:
        raise DeviceError(f"cannot build {name}: {reason}")
    folder = cache_dir() / build_key(sources, flags, compiler)
    library = folder / f"{name}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"cannot build {name}: {folder} cannot be made ({error}); set {CACHE_VARIABLE}"
        ) from error
    with locked(folder / "lock"):
        if not library.is_file():
            _compile(compiler, sources, flags, library, joined, timeout_s)
    return library


def _compile(
    compiler: Compiler,
    sources: Sequence[Path],
    flags: Sequence[str],
    library: Path,
    joined: bool,
    timeout_s: float,
) -> None:
    """Compile the sources side by side, link, and rename, so that a library that exists is complete."""
    until = time.monotonic() + timeout_s

    def run(*more: str) -> None:
        # libraries stand in the flags, and the linker wants them after the objects that need them
        words = [compiler.path, "-std=c++17", "-O2", "-fPIC", *more, *flags]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=max(1.0, until - time.monotonic())
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"cannot build {library.stem}: not done after {timeout_s:g} s") from error
        if done.returncode != 0:
            lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
            first = next((line for line in lines if "error" in line), lines[0])
            library.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
            raise DeviceError(
                f"cannot build {library.stem}: {first} (all of it in {library.with_suffix('.log')})"
            )

    with tempfile.TemporaryDirectory(dir=library.parent, prefix=f".{library.stem}.") as scratch:
        if joined:
            unit = Path(scratch) / "joined.cc"
            unit.write_text("".join(f'#include "{source}"\n' for source in sources), encoding="utf-8")
            sources = [unit]
        objects = [str(Path(scratch) / f"{number}.o") for number in range(len(sources))]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            jobs = [
                pool.submit(run, "-c", str(source), "-o", made)
                for source, made in zip(sources, objects, strict=True)
            ]
            for job in jobs:
                job.result()
        made = str(Path(scratch) / library.name)
        run("-shared", "-o", made, *objects)
        os.chmod(made, 0o755)
        os.replace(made, library)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Status:
    """Whether C++ operators can be had here, for `mix-core doctor` and for reasons shown once."""

    possible: bool
    reason: str
    built: tuple[str, ...] = ()
    """Libraries in the cache, whatever they were built against."""


def status() -> Status:
    """Sources, compiler and Paddle together: can operators be built, and what lies in the cache."""
    root = source_dir()
    if root is None:
        return Status(False, "this installation carries no C++ sources; the reference operators run")
    compiler, reason = find_compiler()
    if compiler is None:
        return Status(False, f"{reason}; the reference operators run")
    if paddle_folder() is None:
        return Status(False, "no Paddle is installed to build against")
    built = tuple(sorted(str(p.relative_to(cache_dir())) for p in cache_dir().glob("*/*.so")))
    return Status(True, f"sources in {root}, {reason}", built)
