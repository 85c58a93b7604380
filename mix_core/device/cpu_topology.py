"""What the processor offers to this process: physical cores (affinity, cgroup quota), vendor and flags."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """The first entry of /proc/cpuinfo."""

    vendor: str
    model: str
    flags: frozenset[str]


def read_processor(path: Path = Path("/proc/cpuinfo")) -> Processor:
    """Vendor, model name and flags; empty where the file does not state them (it differs by architecture)."""
    fields: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags") or fields.get("Features") or ""
    return Processor(fields.get("vendor_id", ""), fields.get("model name", ""), frozenset(flags.split()))


def available_cores(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> tuple[int, str]:
    """Physical cores this process may use, at least 1, and how they were counted.

    Hyper-threads of one core count once; a cgroup quota caps the number. `root` is replaced in tests.
    """
    allowed = frozenset(os.sched_getaffinity(0)) if cpus is None else cpus
    cores = {_siblings(root, cpu) for cpu in allowed}
    count = max(1, len(cores))
    reason = f"{count} physical cores in the affinity mask of {len(allowed)} processors"
    quota = _cgroup_quota(root)
    if quota is not None and quota < count:
        count = max(1, int(quota))
        reason += f", cgroup quota {quota:g}"
    return count, reason


def _siblings(root: Path, cpu: int) -> str:
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_quota(root: Path) -> float | None:
    """Processors' worth of time the process's cgroup may use, or None without a limit."""
    limits = [limit for folder in _cgroup_folders(root) if (limit := _quota_of(folder)) is not None]
    return min(limits, default=None)


def _cgroup_folders(root: Path) -> list[Path]:
    """The process's own cgroup folder and its parents, in both versions of the interface."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    folders: list[Path] = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/cpu"]
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [base.joinpath(*parts[: n + 1]) for n in range(len(parts))]
    return folders


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if quota in ("max", "-1") or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)
