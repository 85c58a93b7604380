"""Compose, apply and compare the settings of a run.

Composition is pure: from the user's environment and the plugins' decisions to one row for each variable. A
scalar that the user has set wins; lists are united; both sources stay visible.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mix_core.device.values import AllocatorPolicy, Decision, SettingValue, Stage

Kind = Literal["environment", "allocator", "stride_kernel", "blacklist"]

BLACKLIST = "CUSTOM_DEVICE_BLACK_LIST"
STRIDE_KERNEL = "FLAGS_use_stride_kernel"
ALLOCATOR = "FLAGS_allocator_strategy"
COMMA_LISTS = frozenset({BLACKLIST})
PATH_LISTS = frozenset({"PATH", "LD_LIBRARY_PATH", "PYTHONPATH"})
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
LEDGER = "MIX_APPLIED_SETTINGS"
"""Tells child processes which variables are mix-core's, and what the user had there."""


@dataclass(frozen=True)
class SettingRow:
    """One final setting, as `mix-core explain` shows it."""

    name: str
    value: str | None
    """As exported; None: the variable is unset."""
    reason: str
    source: str
    kind: Kind
    stage: Stage
    in_process: Callable[[], None] | None = field(default=None, repr=False, compare=False)
    required: bool = True

    def to_json(self) -> dict[str, str | None]:
        names = ("name", "value", "reason", "source", "kind", "stage")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Layer:
    """The decisions of one plugin, in the order of composition."""

    source: str
    environment: Mapping[str, Decision] = field(default_factory=dict)
    allocator: AllocatorPolicy | None = None
    stride_kernel: Decision | None = None
    blacklisted_ops: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wish:
    decision: Decision
    source: str
    kind: Kind


def export(value: SettingValue, name: str) -> str | None:
    """The string that a value is exported as."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return separator(name).join(value)
    return str(value)


def separator(name: str) -> str:
    return "," if name in COMMA_LISTS else os.pathsep


def compose(layers: Iterable[Layer], user: Mapping[str, str]) -> list[SettingRow]:
    """Compose layers (lowest first) with the user's environment into one row for each variable, by name."""
    wishes: dict[str, list[_Wish]] = {}
    for layer in layers:
        for name, wish in _wishes_of(layer):
            earlier = wishes.setdefault(name, [])
            if not _is_list(name, wish.decision):
                earlier.clear()
            earlier.append(wish)
    return [_row(name, stack, user.get(name)) for name, stack in sorted(wishes.items())]


def _wishes_of(layer: Layer) -> Iterable[tuple[str, _Wish]]:
    for name, decision in layer.environment.items():
        yield name, _Wish(decision, layer.source, "environment")
    if layer.allocator is not None:
        policy = layer.allocator
        yield ALLOCATOR, _Wish(Decision(policy.strategy, policy.reason), layer.source, "allocator")
        for name, decision in policy.knobs.items():
            yield name, _Wish(decision, layer.source, "allocator")
    if layer.stride_kernel is not None:
        yield STRIDE_KERNEL, _Wish(layer.stride_kernel, layer.source, "stride_kernel")
    if layer.blacklisted_ops:
        reason = "; ".join(f"{op}: {why}" for op, why in layer.blacklisted_ops.items())
        decision = Decision(tuple(layer.blacklisted_ops), reason)
        yield BLACKLIST, _Wish(decision, layer.source, "blacklist")


def _is_list(name: str, decision: Decision) -> bool:
    return isinstance(decision.value, tuple) or name in COMMA_LISTS or name in PATH_LISTS


def _row(name: str, stack: list[_Wish], user: str | None) -> SettingRow:
    top = stack[-1]
    decision = top.decision
    if _is_list(name, decision) and decision.value is not None:
        return _list_row(name, stack, user)
    value = export(decision.value, name)
    if user is not None and user != value:
        wanted = "unset" if value is None else f"{value}"
        reason = f"set by the user; {top.source} would have {wanted}: {decision.reason}"
        return SettingRow(name, user, reason, f"user (over {top.source})", top.kind, decision.stage)
    source = top.source if user is None else f"{top.source}, user"
    how = (decision.stage, decision.in_process, decision.required)
    return SettingRow(name, value, decision.reason, source, top.kind, *how)


def _list_row(name: str, stack: list[_Wish], user: str | None) -> SettingRow:
    """Unite the entries of the user and of all plugins, the user's first."""
    mark = separator(name)
    own = [part for part in (user or "").split(mark) if part]
    parts, sources, reasons = list(own), ["user"] if own else [], []
    for wish in stack:
        text = export(wish.decision.value, name) or ""
        parts += [part for part in text.split(mark) if part and part not in parts]
        sources.append(wish.source)
        reasons.append(wish.decision.reason)
    if own:
        reasons.append(f"the user's {mark.join(own)} kept")
    top = stack[-1]
    return SettingRow(
        name, mark.join(parts), "; ".join(reasons), ", ".join(sources), top.kind, top.decision.stage
    )


def user_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what mix-core itself put there, in this process or in a parent."""
    result = {name: value for name, value in environ.items() if name != LEDGER}
    for name, (ours, before) in read_ledger(environ).items():
        if environ.get(name) != ours:
            continue  # changed since: the user's again
        if before is None:
            result.pop(name, None)
        else:
            result[name] = before
    return result


def read_ledger(environ: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Variable to (what mix-core exported, what the user had)."""
    try:
        return {
            name: (ours, before) for name, (ours, before) in json.loads(environ.get(LEDGER, "{}")).items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}  # not ours: someone else's text in the variable


def exported(
    rows: Iterable[SettingRow], environ: Mapping[str, str], *, runtime: bool = False
) -> dict[str, str]:
    """The environment of a process in which these rows hold, ledger included.

    Those of the stage `runtime` only where asked for: Paddle reads its flags from the environment too, and a
    program that knows nothing of mix-core has no other way to them.
    """
    result = user_environment(environ)
    ledger: dict[str, tuple[str | None, str | None]] = {}
    for row in rows:
        if row.stage == "runtime" and not runtime:
            continue
        before = result.get(row.name)
        if before == row.value:
            continue
        ledger[row.name] = (row.value, before)
        if row.value is None:
            result.pop(row.name, None)
        else:
            result[row.name] = row.value
    if ledger:
        result[LEDGER] = json.dumps(ledger)
    return result


def note_writes(before: Mapping[str, str], environ: MutableMapping[str, str]) -> None:
    """Enter what `import paddle` wrote into the ledger, or a child process would take it for the user's."""
    ledger = read_ledger(environ)
    for name, value in environ.items():
        if name != LEDGER and before.get(name) != value:
            ledger[name] = (value, ledger.get(name, (None, before.get(name)))[1])
    if ledger:
        environ[LEDGER] = json.dumps(ledger)


def apply(target: Mapping[str, str], environ: MutableMapping[str, str]) -> None:
    """Make `environ` equal to `target`, touching only what differs."""
    for name in [name for name in environ if name not in target]:
        del environ[name]
    for name, value in target.items():
        if environ.get(name) != value:
            environ[name] = value


def initial_environment() -> dict[str, str]:
    """The environment with which this process was started (what the C library and the loader have seen).

    Where the system does not tell, the present one.
    """
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def flag_value(text: str, known: object) -> bool | int | float | str:
    """An exported value as the type of a Paddle flag, whose present value is `known`.

    Raises ValueError when the text is no value of that type.
    """
    if isinstance(known, bool):
        lowered = text.strip().lower()
        if lowered not in _TRUE + _FALSE:
            raise ValueError(f"{text!r} is neither true nor false")
        return lowered in _TRUE
    if isinstance(known, int | float):
        return type(known)(text)
    return text


def flag_holds(text: str, actual: object) -> bool:
    """Whether a Paddle flag, as `paddle.get_flags` gives it, has the exported value `text`."""
    try:
        return flag_value(text, actual) == actual
    except ValueError:
        return False


def not_held(
    rows: Iterable[SettingRow], stages: Iterable[Stage], found: Mapping[str, str]
) -> list[SettingRow]:
    """The rows of these stages whose variable has another value in `found`."""
    wanted = tuple(stages)
    return [row for row in rows if row.stage in wanted and found.get(row.name) != row.value]


def rows_to_json(rows: Iterable[SettingRow]) -> list[dict[str, Any]]:
    return [row.to_json() for row in rows]
