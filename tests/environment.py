"""Environments and programs for processes that tests start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Timer

from mix_core.device import settings
from tests.plugins.installed import entry_names, install

KNOWN_PREFIXES = ("MIX_", "FLAGS_", "OMP_", "KMP_", "MKL_", "MALLOC_", "CUSTOM_DEVICE_", "ACME_", "GLOG_")
"""Variables that mix-core's settings or an imported paddle may have left in the environment."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For tiny models on a simulated device: a second thread waits, and takes a third more processor time."""


def clean_environment() -> dict[str, str]:
    """The environment of a shell that knows nothing of mix-core; the cache of built libraries stays."""
    environ = settings.user_environment(os.environ)
    for name in [name for name in environ if name.startswith(KNOWN_PREFIXES)]:
        del environ[name]
    return environ | {"MIX_CACHE": os.environ.get("MIX_CACHE", str(Path.home() / ".cache" / "mix_core"))}


def with_plugins(environ: dict[str, str], plugins: Sequence[str], site: Path) -> dict[str, str]:
    """The environment in which these plugins, and no others, are installed."""
    environ = environ | {"MIX_DEVICES_LOAD": ",".join(entry_names(plugins))}
    if plugins:
        environ["PYTHONPATH"] = os.pathsep.join(install(plugins, site))
    return environ


def run_simulated(
    arguments: Sequence[str | Path],
    folder: Path,
    *,
    device: str = "npu",
    timeout_s: float = 240.0,
    within: Sequence[str] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """A Python program in a process whose MIX_DEVICE is the simulated `device` (`npu`, `npu:1`...).

    It has one thread unless `variables` say otherwise. `within`: words before the program's.
    """
    plugin = f"mix_device_{device.partition(':')[0]}"
    environ = with_plugins(clean_environment(), [plugin], folder / "site")
    environ |= {"MIX_DEVICE": device, "MIX_SIMULATE": "1"} | ONE_THREAD | variables
    return subprocess.run(
        [*within, sys.executable, *map(str, arguments)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def processor_seconds(*words: str | Path, environment: Mapping[str, str], log: Path, timeout: float) -> float:
    """What a program and all that it starts use; other children of this process are not its own."""
    with log.open("w") as said:
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=subprocess.STDOUT)
        late = Timer(timeout, process.kill)
        late.start()
        _, status, used = os.wait4(process.pid, 0)
        late.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text()[-3000:]
    return used.ru_utime + used.ru_stime
