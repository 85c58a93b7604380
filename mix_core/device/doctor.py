"""`mix-core doctor`: is this device usable on this machine, and if not, what stands in the way."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

import mix_core
from mix_core.device import choice, composition, discovery, native, settings, simulate, simulate_build
from mix_core.device.names import AUTO, DeviceName
from mix_core.device.profile import DeviceProfile
from mix_core.device.values import Workload
from mix_core.errors import DeviceError, MixError

PROBE_LIMIT_S = 0.05
CHILD_TIMEOUT_S = 300.0
SHARED_MEMORY_BYTES = 1 << 30
"""Data workers hand batches over through /dev/shm; containers give 64 MiB unless told otherwise."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. Only an `error` makes the device unusable."""

    name: str
    state: Literal["ok", "warning", "error"]
    detail: str


@dataclass(frozen=True)
class Report:
    device: str
    findings: tuple[Finding, ...]
    operators: tuple[dict[str, Any], ...] = ()
    """What runs each replaceable operator: operator, dtype, runs, reason. Empty if it did not start."""

    @property
    def usable(self) -> bool:
        return not any(finding.state == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "usable": self.usable,
            "checks": [asdict(finding) for finding in self.findings],
            "operators": list(self.operators),
        }


def examine(name: str | None, environ: Mapping[str, str] | None = None) -> Report:
    """Examine one device; without a name the one that would be chosen. Loads no plugin before a child has."""
    environ = settings.user_environment(os.environ if environ is None else environ)
    wanted, _ = choice.requested(name, None, environ)
    findings = list(_machine())
    try:
        entries = discovery.find_entries(environ=environ)
        if wanted.name == AUTO:
            probed, entry = _probe_all(entries, environ)
            findings += probed
        else:
            entry = choice.find_entry(wanted.name, entries)
            findings.append(_probe(entry, environ).finding(required=True))
        unusable = findings[-1].state == "error"
        if entry is not None:
            findings += _host_checks(entry, environ)
        if entry is None or unusable:
            return Report(str(wanted), tuple(findings))
        candidate = choice.load_candidate(entry)
    except DeviceError as error:
        findings.append(Finding("choice", "error", str(error)))
        return Report(str(wanted), tuple(findings))
    findings += _plugin(candidate)
    operators: list[dict[str, Any]] = []
    if _paddles():
        place = DeviceName(entry.name, wanted.index)
        findings += _checks_in_child(str(place), candidate, environ, operators)
    return Report(entry.name, tuple(findings), tuple(operators))


def _machine() -> Iterator[Finding]:
    """What does not depend on the device."""
    yield Finding("mix-core", "ok", f"{mix_core.__version__}, Python {platform.python_version()}")
    yield _paddle()
    status = native.status()
    compiler, reason = native.find_compiler()
    yield Finding("compiler", "ok" if compiler else "warning", reason)
    built = f"{len(status.built)} built in {native.cache_dir()}" if status.built else "none built yet"
    yield Finding(
        "operators", "ok" if status.possible else "warning", built if status.possible else status.reason
    )
    yield _simulator()
    yield shared_memory()


def _simulator() -> Finding:
    """Whether `--simulate` would work here at once."""
    try:
        library = simulate_build.place()
        simulate.refuse_if_impossible(os.environ)
    except MixError as error:
        return Finding("simulator", "warning", str(error))
    built = "built" if library.is_file() else "not built yet: --simulate builds it once, in about a minute"
    return Finding("simulator", "ok", built)


def _paddles() -> list[str]:
    """The installed distributions that carry the package `paddle`, with their versions."""
    found = set()
    for distribution in distributions():
        top = (distribution.read_text("top_level.txt") or "").split()
        if "paddle" in top or distribution.name.lower().startswith("paddlepaddle"):
            found.add(f"{distribution.name} {distribution.version}")
    return sorted(found)


def _paddle() -> Finding:
    found = _paddles()
    if not found:
        return Finding(
            "paddle", "error", "no Paddle is installed: pip install 'mix-core[cpu]' or a device's wheel"
        )
    if len(found) > 1:
        names = " and ".join(found)
        return Finding(
            "paddle", "error", f"{names} write into the same folder; uninstall all, then install one"
        )
    return Finding("paddle", "ok", f"{found[0]} ({native.paddle_identity()})")


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    try:
        total = shutil.disk_usage(path).total
    except OSError as error:
        return Finding("shared memory", "warning", f"{path}: {error}; use num_workers 0")
    text = f"{path} holds {total / 2**20:.0f} MiB"
    if total < SHARED_MEMORY_BYTES:
        return Finding("shared memory", "warning", f"{text}; start the container with --shm-size=8g")
    return Finding("shared memory", "ok", text)


def _plugin(candidate: choice.Candidate) -> Iterator[Finding]:
    """The plugin's versions against what it was written for."""
    plugin, profile = candidate.plugin, candidate.profile
    api = ".".join(str(part) for part in plugin.api or ())
    state: Literal["ok", "warning"] = "warning" if plugin.warnings else "ok"
    detail = "; ".join((f"{plugin.entry.label}, plugin API {api}", *plugin.warnings))
    yield Finding("plugin", state, detail)
    yield from _paddle_range(profile)


def _paddle_range(profile: DeviceProfile) -> Iterator[Finding]:
    identity = native.paddle_identity()
    if profile.paddle_versions is None or identity is None:
        return
    version = identity.partition("+")[0]
    if not profile.paddle_versions.contains(version):
        bounds, source = profile.paddle_versions.bounds, profile.paddle_versions.source
        yield Finding("paddle version", "warning", f"{version} is outside {bounds} ({source})")


@dataclass(frozen=True)
class _Probed:
    """What a child process found about one plugin."""

    entry: discovery.Entry
    state: str
    text: str
    priority: int = 0
    seconds: float = 0.0

    def finding(self, *, required: bool) -> Finding:
        """An absent device is an error only when it is the one that is asked for."""
        name = f"probe {self.entry.name}"
        if self.state == "broken" or (required and self.state != "usable"):
            return Finding(name, "error", self.text)
        if self.seconds > PROBE_LIMIT_S:
            slow = f"took {self.seconds * 1000:.0f} ms, more than {PROBE_LIMIT_S * 1000:.0f} ms"
            return Finding(name, "warning", f"{self.text}; {slow}")
        return Finding(name, "ok", self.text)


def _probe(entry: discovery.Entry, environ: Mapping[str, str]) -> _Probed:
    lines, death = _run_child("probe", entry.name, environ)
    answer = next((line for line in lines if "state" in line), None)
    if answer is None:
        return _Probed(entry, "broken", f"{_last_step(lines)} of {entry.label} {death}")
    text = f"{answer['state']}: {answer['reason']}"
    return _Probed(entry, answer["state"], text, answer["priority"], answer["seconds"])


def _probe_all(
    entries: list[discovery.Entry], environ: Mapping[str, str]
) -> tuple[list[Finding], discovery.Entry | None]:
    """Probe every plugin: the findings, and what `auto` would take, None where it would stop."""
    probed = [_probe(choice.find_entry(entry.name, entries), environ) for entry in entries]
    findings = [item.finding(required=False) for item in probed]
    usable = [item for item in probed if item.state == "usable"]
    if any(finding.state == "error" for finding in findings):
        return findings, None
    if not usable:
        return [*findings, Finding("choice", "error", "no device is usable")], None
    return findings, max(usable, key=lambda item: item.priority).entry


def _host_checks(entry: discovery.Entry, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What the plugin says of this machine without its device, and what of it never ran on the chip."""
    lines, death = _run_child("host", entry.name, environ)
    yield from _checked(lines)
    for line in lines:
        if unrun := line.get("not_run_on_hardware"):
            yield Finding("hardware", "warning", f"not run on hardware: {', '.join(unrun)}")
    if death and lines:  # without a line the plugin itself does not load, which the probe has reported
        yield Finding("checks", "error", f"{_last_step(lines)} {death}")


def _checked(lines: list[dict[str, Any]]) -> Iterator[Finding]:
    for line in lines:
        if "check" in line:
            yield Finding(line["check"], "ok" if line["ok"] else "error", line["detail"])


def _checks_in_child(
    device: str,
    candidate: choice.Candidate,
    environ: Mapping[str, str],
    operators: list[dict[str, Any]],
) -> Iterator[Finding]:
    """Activate in a child that has the device's environment, and run its checks there; fill `operators`."""
    try:
        composed = composition.compose(candidate, Workload(), environ)
    except MixError as error:
        yield Finding("settings", "error", str(error))
        return
    for warning in composed.warnings:
        yield Finding("settings", "warning", warning)
    lines, death = _run_child("checks", device, settings.exported(composed.rows, environ))
    operators += [line for line in lines if "operator" in line]
    yield from _checked(lines)
    if death and not any(line.get("check") == "activation" and not line["ok"] for line in lines):
        yield Finding("checks", "error", f"{_last_step(lines)} {death}")


def _last_step(lines: list[dict[str, Any]]) -> str:
    steps = [line["step"] for line in lines if "step" in line]
    return steps[-1] if steps else "start of the child process"


def _run_child(task: str, name: str, environ: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """Run a task of `mix_core.device.child`: (its lines, how it died or an empty string)."""
    with tempfile.TemporaryDirectory(prefix="mix-doctor-") as folder:
        report = Path(folder) / "report"
        report.touch()
        command = [sys.executable, "-m", "mix_core.device.child", str(report), task, name]
        try:
            done = subprocess.run(
                command, env=dict(environ), capture_output=True, text=True, timeout=CHILD_TIMEOUT_S
            )
            death = _death(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            death = f"did not end within {CHILD_TIMEOUT_S:.0f} s"
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return lines, death


def _death(code: int, stderr: str) -> str:
    if code == 0:
        return ""
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how}: {last.strip()}" if last else how
