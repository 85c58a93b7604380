"""What `mix-core doctor xpu` looks at beside core's own checks: cards and driver, versions.

`xpu-smi` is read in its public table form: a line with the versions, then for each card a line with number,
name and bus, and one with temperature, power and memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from mix_core.plugin_api import Check, DeviceError, VersionRange
from mix_device_xpu.profile import PROFILE

SMI = "xpu-smi"
SMI_TIMEOUT_S = 60

_VERSIONS = re.compile(r"Driver Version:\s*(\S+)\s+XPU-RT Version:\s*(\S+)")
_CARD = re.compile(r"^\|\s+(\d+)\s+(\S.*?)\s+\S+\s+\|\s+([0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f.]+)")
_MEMORY = re.compile(r"(\d+)C\s.*?\|\s+(\d+)MiB\s*/\s*(\d+)MiB")


@dataclass(frozen=True)
class Card:
    """One card of `xpu-smi`'s table; memory in MiB."""

    number: int
    name: str
    bus: str
    memory_used_mib: int
    memory_mib: int


@dataclass(frozen=True)
class Smi:
    """What `xpu-smi` prints: the driver's and the runtime's (XRE) version, and the cards."""

    driver: str
    runtime: str
    cards: tuple[Card, ...]


def read_smi(text: str) -> Smi:
    """Read `xpu-smi`'s table. Raises DeviceError for a text of another form."""
    versions = _VERSIONS.search(text)
    if versions is None:
        first = next((line for line in text.splitlines() if line.strip()), "nothing")
        raise DeviceError(f"{SMI} printed {first!r}, expected a table with 'Driver Version:'; see the README")
    cards = []
    head: re.Match[str] | None = None
    for line in text.splitlines():
        head = _CARD.match(line) or head
        memory = _MEMORY.search(line)
        if head is not None and memory is not None:
            cards.append(Card(int(head[1]), head[2], head[3], int(memory[2]), int(memory[3])))
            head = None
    return Smi(versions[1], versions[2], tuple(cards))


def run_smi() -> str:
    """The output of `xpu-smi`. Raises DeviceError when it is missing, fails or hangs."""
    path = shutil.which(SMI)
    if path is None:
        raise DeviceError(f"{SMI} is not in PATH; in a container mount /usr/local/bin/{SMI} (see the README)")
    try:
        done = subprocess.run([path], capture_output=True, text=True, timeout=SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{SMI} did not answer within {SMI_TIMEOUT_S} s: the driver hangs, reload it"
        ) from None
    if done.returncode != 0:
        raise DeviceError(f"{SMI} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def check_cards(smi: Callable[[], str] = run_smi) -> str:
    """Cards, driver and runtime against the versions of the profile."""
    found = read_smi(smi())
    for what, have, wanted in (
        ("driver", found.driver, PROFILE.driver_versions),
        ("XPU-RT", found.runtime, PROFILE.sdk_versions),
    ):
        _require(what, have, wanted)
    if not found.cards:
        raise DeviceError(
            f"{SMI} lists no card (driver {found.driver}): look at the kernel's log for the card"
        )
    first = found.cards[0]
    return (
        f"{len(found.cards)} x {first.name}, {first.memory_mib} MiB each, driver {found.driver}, "
        f"XPU-RT {found.runtime}"
    )


def _require(what: str, have: str, wanted: VersionRange | None) -> None:
    if wanted is not None and not wanted.contains(have):
        raise DeviceError(f"{what} {have} is outside {wanted.bounds} ({wanted.source}): install another")


def check_versions(versions: Callable[[], dict[str, str]] | None = None) -> str:
    """The versions of Kunlun's libraries that this Paddle was built for."""
    found = (versions or _paddle_versions)()
    if found.get("xpu") in ("False", "None"):
        return "this Paddle has no XPU support: a simulated device"
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _paddle_versions() -> dict[str, str]:
    import paddle.version as version

    names = ("xpu", "xpu_xre", "xpu_xccl", "xpu_xhpc")
    return {name: str(getattr(version, name)()) for name in names if hasattr(version, name)}


def check_extension(serves: Callable[[], bool] | None = None) -> str:
    """Whether Kunlun's extension of Paddle is there, which brings one of the kernels."""
    from mix_device_xpu import kernels

    if (serves or (lambda: kernels.published().xpu_rms_norm is not None))():
        return f"{kernels.EXTENSION} serves rms_norm"
    return f"{kernels.EXTENSION} is not installed: rms_norm runs as the reference"


CHECKS = (
    Check(f"cards by {SMI}", check_cards, needs_device=False),
    Check("libraries of Paddle", check_versions),
    Check("extension", check_extension),
)
