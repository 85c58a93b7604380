"""What `mix-core doctor gpu` looks at beside core's own checks: cards, driver, CUDA.

`nvidia-smi` is asked for a comma-separated list, a form that NVIDIA documents for programs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from mix_core.plugin_api import Check, DeviceError, VersionRange
from mix_device_gpu.profile import CUDA_RELEASES, PROFILE

SMI = "nvidia-smi"
FIELDS = ("index", "name", "driver_version", "memory.used", "memory.total", "compute_cap")
SMI_TIMEOUT_S = 60
BFLOAT16_CAPABILITY = (8, 0)
LEAST_DRIVER = {
    "11": VersionRange(">=450.80.02", CUDA_RELEASES),
    "12": VersionRange(">=525.60.13", CUDA_RELEASES),
    "13": VersionRange(">=580.65.06", CUDA_RELEASES),
}
"""Driver that a major version of CUDA needs at least, on Linux."""


@dataclass(frozen=True)
class Card:
    """One row of `nvidia-smi`; memory in MiB."""

    number: int
    name: str
    driver: str
    memory_used_mib: int
    memory_mib: int
    capability: tuple[int, int]


def read_cards(text: str) -> list[Card]:
    """Rows of FIELDS, separated by commas, without heading and units. Raises DeviceError for another form."""
    cards = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        try:
            number, name, driver, used, total, capability = (part.strip() for part in line.split(","))
            major, minor = (int(part) for part in capability.split("."))
            cards.append(Card(int(number), name, driver, int(used), int(total), (major, minor)))
        except ValueError:
            raise DeviceError(f"{SMI} printed {line!r}, expected {', '.join(FIELDS)}; is it {SMI}?") from None
    return cards


def run_smi() -> str:
    """The rows of `nvidia-smi`. Raises DeviceError when it is missing, fails or hangs."""
    path = shutil.which(SMI)
    if path is None:
        raise DeviceError(f"{SMI} is not in PATH: install the driver; start the container with --gpus all")
    command = [path, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{SMI} did not answer within {SMI_TIMEOUT_S} s: the driver hangs, reload it"
        ) from None
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
        raise DeviceError(f"{SMI} ended with exit code {done.returncode}: {last[0].strip()}")
    return done.stdout


def check_cards(smi: Callable[[], str] = run_smi) -> str:
    """The cards, their driver, and whether they compute in bfloat16."""
    cards = read_cards(smi())
    if not cards:
        raise DeviceError(f"{SMI} lists no card: start the container with --gpus all")
    driver, wanted = cards[0].driver, PROFILE.driver_versions
    if wanted is not None and not wanted.contains(driver):
        raise DeviceError(f"driver {driver} is outside {wanted.bounds} ({wanted.source}): install another")
    shown = []
    for card in cards:
        half = "bfloat16" if card.capability >= BFLOAT16_CAPABILITY else "no bfloat16, take float16"
        memory = f"{card.memory_used_mib} of {card.memory_mib} MiB in use"
        version = ".".join(str(part) for part in card.capability)
        shown.append(f"{card.number} {card.name} ({memory}, compute capability {version}: {half})")
    return f"driver {driver}; {'; '.join(shown)}"


def check_cuda(cuda: Callable[[], str] | None = None, smi: Callable[[], str] = run_smi) -> str:
    """The CUDA that this Paddle was built for, against the driver."""
    version = str((cuda or _paddle_cuda)())
    if version in ("False", "None"):
        return "this Paddle has no CUDA: a simulated device"
    cards = read_cards(smi())
    least = LEAST_DRIVER.get(version.partition(".")[0])
    if least is None or not cards:
        return f"CUDA {version}, whose least driver is not known here"
    if not least.contains(cards[0].driver):
        raise DeviceError(
            f"Paddle was built for CUDA {version}, which needs a driver {least.bounds} ({least.source}), "
            f"found {cards[0].driver}: install a newer driver, or Paddle for an older CUDA"
        )
    return f"CUDA {version}, driver {cards[0].driver}"


def _paddle_cuda() -> str:
    import paddle.version

    return paddle.version.cuda()


CHECKS = (
    Check(f"cards by {SMI}", check_cards, needs_device=False),
    Check("CUDA of Paddle", check_cuda),
)
