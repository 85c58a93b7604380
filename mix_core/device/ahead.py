"""What `mix-core build` does: build every library of csrc that this machine may use, and time it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mix_core.device import native, native_build, simulate_build


@dataclass(frozen=True)
class Built:
    """One library in the cache."""

    name: str
    path: Path
    new: bool
    """False where it was there already."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path), "seconds": round(self.seconds, 3)}

    def line(self) -> str:
        took = f"built in {self.seconds:.1f} s" if self.new else "already built"
        return f"{self.name}: {took}, {self.path}"


def build_all(*, simulator: bool = False) -> Iterator[Built]:
    """Build the CPU operators, and the simulated device where it is asked for, and give each as it is done.

    Raises DeviceError without a compiler, and with its first error and the log's place where it fails.
    """
    before = {native.cache_dir() / name for name in native.status().built}
    operators = native_build.build()
    while True:
        start = time.perf_counter()
        path = next(operators, None)
        if path is None:
            break
        yield Built(path.stem, path, path not in before, time.perf_counter() - start)
    if simulator:
        new, start = not simulate_build.place().is_file(), time.perf_counter()
        path = simulate_build.library()
        yield Built(path.stem, path, new, time.perf_counter() - start)
