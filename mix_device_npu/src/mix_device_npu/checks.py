"""What `mix-core doctor npu` looks at: cards, driver, CANN and the library's own versions.

The first three look at the machine alone and run also where no card is found. `npu-smi info` is read in its
public table form: a line for the card, a line for its chip with the bus and the memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mix_core.plugin_api import Check, DeviceError, VersionRange, installed_version, version_in_file
from mix_device_npu import toolchain
from mix_device_npu.kernels import AscendKernels
from mix_device_npu.profile import PROFILE

PADDLE_PLUGIN = "paddle-custom-npu"
DRIVER_FILE = toolchain.DRIVER_FOLDER / "version.info"
SMI = "npu-smi"
SMI_TIMEOUT_S = 60
_MOUNT = "in a container mount /usr/local/bin/npu-smi and /usr/local/dcmi (see the README)"


@dataclass(frozen=True)
class Card:
    """One line pair of `npu-smi info`; memory in MB, as the tool prints it."""

    number: int
    name: str
    health: str
    memory_used_mb: int
    memory_mb: int


def read_cards(text: str) -> list[Card]:
    """The cards of `npu-smi info`'s table; process lines and headings are passed over."""
    cards: list[Card] = []
    head: re.Match[str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            continue
        card = re.fullmatch(r"(\d+)\s+(\S*[A-Za-z]\S*|\d{3}\S*)", cells[0])
        if card and re.fullmatch(r"[A-Za-z]+", cells[1]):
            head, health = card, cells[1]
        elif head and re.match(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:", cells[1]):
            pairs = re.findall(r"(\d+)\s*/\s*(\d+)", cells[2])
            used, total = pairs[-1] if pairs else ("0", "0")
            cards.append(Card(int(head[1]), head[2], health, int(used), int(total)))
            head = None
    return cards


def run_smi() -> str:
    """The output of `npu-smi info`. Raises DeviceError where the tool is missing or fails."""
    if shutil.which(SMI) is None:
        raise DeviceError(f"{SMI} is not on PATH: install the driver; {_MOUNT}")
    try:
        done = subprocess.run([SMI, "info"], capture_output=True, text=True, timeout=SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{SMI} info failed: {error}") from error
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
        raise DeviceError(f"{SMI} info ended with exit code {done.returncode}: {last[0].strip()}")
    return done.stdout


def check_cards(smi: Callable[[], str] = run_smi) -> str:
    """Every card that the driver reports. Raises DeviceError for none and for one that is not healthy."""
    cards = read_cards(smi())
    if not cards:
        raise DeviceError(f"{SMI} info lists no card: start the container with --privileged or the devices")
    sick = [f"card {card.number} ({card.name}) is {card.health}" for card in cards if card.health != "OK"]
    if sick:
        raise DeviceError(
            f"{'; '.join(sick)}: see `{SMI} info -t health -i NUMBER`, or hide it with "
            f"{PROFILE.visible_devices_variable}"
        )
    shown = (
        f"{card.number} {card.name} ({card.memory_used_mb} of {card.memory_mb} MB in use)" for card in cards
    )
    return f"{len(cards)} healthy: {', '.join(shown)}"


def check_driver(path: Path = DRIVER_FILE) -> str:
    version = version_in_file(path, r"(?m)^Version=(\S+)")
    if version is None:
        raise DeviceError(f"{path} has no driver version: install the driver, or mount {path.parent}")
    return _in_range("driver", version, PROFILE.driver_versions)


def check_cann(environ: Mapping[str, str] | None = None) -> str:
    toolkit = toolchain.find_toolkit(environ)
    if toolkit is None:
        names = ", ".join(toolchain.PLACES)
        raise DeviceError(f"no CANN toolkit in {names}: install it, or set {toolchain.HOME_VARIABLES[0]}")
    version = toolchain.toolkit_version(toolkit)
    if version is None:
        return f"{toolkit}, which does not tell its version"
    return f"{_in_range('CANN', version, PROFILE.sdk_versions)} in {toolkit}"


def check_library(version: Callable[[], Mapping[str, str]] | None = None) -> str:
    """paddle-custom-npu as it reports itself, against the CANN that is installed."""
    if version is None:
        import paddle_custom_device.npu  # the vendor's package; there when the device is

        version = paddle_custom_device.npu.version
    told = version()
    built, toolkit = told.get("cann", "unknown"), toolchain.find_toolkit()
    found = toolchain.toolkit_version(toolkit) if toolkit else None
    text = f"{PADDLE_PLUGIN} {installed_version(PADDLE_PLUGIN)}, commit {told.get('commit', 'unknown')[:8]}"
    if found and built != found:
        raise DeviceError(
            f"{text} was built for CANN {built}, this is CANN {found}: install the one or the other"
        )
    return f"{text}, built for CANN {built}"


def check_operators(kernels: AscendKernels | None = None) -> str:
    """Which custom operators the installed library has, and the form of its attention."""
    kernels = kernels or AscendKernels()
    names = ("flash_attention_npu", "rms_norm_npu", "fused_rope")
    counts = {name: kernels.count(name) for name in names}
    if None in counts.values():
        return "no library to ask"
    missing = [name for name, count in counts.items() if not count]
    shown = ", ".join(f"{name} ({count} arguments)" for name, count in counts.items() if count)
    return "; ".join(part for part in (shown, f"missing: {', '.join(missing)}" if missing else "") if part)


def _in_range(what: str, version: str, wanted: VersionRange | None) -> str:
    if wanted is not None and not wanted.contains(version):
        raise DeviceError(f"{what} {version} is outside {wanted.bounds} ({wanted.source})")
    return f"{what} {version}"


CHECKS = (
    Check(f"{SMI} info", check_cards, needs_device=False),
    Check("driver", check_driver, needs_device=False),
    Check("CANN", check_cann, needs_device=False),
    Check(PADDLE_PLUGIN, check_library),
    Check("custom operators", check_operators),
)
