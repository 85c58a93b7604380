"""`run.json`: how a run was made. And the short text about a run that is finished."""

from __future__ import annotations

import platform
import shlex
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.training.run_folder import RECORD, REPORT, RESULTS, RunFolder
from mix_core.training.state import checksum

if TYPE_CHECKING:
    from mix_core.config import RunConfig

PACKAGES = ("numpy", "pillow", "pydantic", "safetensors", "tokenizers")
"""Packages whose versions a run depends on, besides mix-core's own and every build of Paddle."""

_NO_INFLUENCE = frozenset(
    (
        *(
            "resume",
            "overwrite_output_dir",
            "output_dir",
            "progress_bar",
            "logging_steps",
            "cache_dir",
            "device",
        ),
        *("report_to", "logging_dir", "module_stats_steps"),
    )
)
"""Keys that two runs with the same outcome may differ in."""

OF_THE_MODEL = frozenset(("model_name_or_path", "revision", "from_scratch"))
"""Keys that say where the model comes from; in a run that is resumed the checkpoint does."""


def versions() -> dict[str, str]:
    """Python, the system, and the installed packages that a run depends on."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for distribution in distributions():
        name = distribution.name.lower()
        if name in PACKAGES or name.startswith(("mix-", "paddle")):
            found[name] = distribution.version
    return found


def data_record(files: list[Path], rows: int) -> dict[str, Any]:
    """What was read: files with their checksums, and how many rows they gave."""
    return {"rows": rows, "files": {str(path): checksum(path, "sha256") for path in files}}


def start_record(
    config: RunConfig, command: list[str], device: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    """The record of a run that begins."""
    return {
        "status": "running",
        "started": now(),
        "command": command,
        "configuration": config.model_dump(mode="json"),
        "versions": versions(),
        "device": device,
        "data": data,
        "resumed_from": None,
    }


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def changed_keys(before: dict[str, Any] | None, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys in which a recorded configuration differs from this one: key -> (before, now)."""
    if before is None:
        return {}
    current = config.model_dump(mode="json")
    return {
        key: (before.get(key), value)
        for key, value in current.items()
        if key not in _NO_INFLUENCE and before.get(key) != value
    }


def finished_results(folder: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    """The results of the run in this folder, if it is finished and had this configuration."""
    record = folder.read_json(RECORD)
    results = folder.read_json(RESULTS)
    if not isinstance(record, dict) or not isinstance(results, dict):
        return None
    if record.get("status") != "finished" or not (folder.path / REPORT).is_file():
        return None
    return None if changed_keys(record.get("configuration"), config) else results


def finished_text(folder: RunFolder, results: dict[str, Any]) -> str:
    """Results, and where the report is."""
    lines = [results_table(results)] if results else []
    record = folder.read_json(RECORD)
    best = record.get("best") if isinstance(record, dict) else None
    if isinstance(best, dict):
        whose = "; the results are its" if best.get("loaded") else ""
        lines.append(f"best: {best['checkpoint']}, {best['metric']} {best['value']:.4f}{whose}")
    return "\n".join([*lines, f"report: {(folder.path / REPORT).resolve()}"])


def results_table(results: dict[str, Any]) -> str:
    """Results as aligned lines."""
    width = max((len(name) for name in results), default=0)
    return "\n".join(
        f"  {name:<{width}}  {value:.4f}" if isinstance(value, float) else f"  {name:<{width}}  {value}"
        for name, value in results.items()
    )


def command_text(command: list[str], **replaced: str) -> str:
    """A command line to type again, with some options replaced or added."""
    words: list[str] = []
    skip = False
    for i, word in enumerate(command):
        if skip:
            skip = False
            continue
        name = word.lstrip("-").partition("=")[0]
        if name in replaced and (word.startswith("--") or "=" in word):
            skip = word.startswith("--") and "=" not in word and i + 1 < len(command)
            continue
        words.append(word)
    added = [word for name, value in replaced.items() for word in (f"--{name}", value)]
    return shlex.join([*words, *added])
