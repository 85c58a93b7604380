"""MIX_TRACE_HOOKS=1: one line on stderr for each hook call, with who implements it and what came back."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

VARIABLE = "MIX_TRACE_HOOKS"


def attach(manager: pluggy.PluginManager) -> None:
    """Let the manager report its calls when the variable asks for it."""
    if os.environ.get(VARIABLE, "") not in ("", "0"):
        manager.add_hookcall_monitoring(_before, _after)


def _before(hook: str, impls: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
    del hook, impls, arguments  # one line a call is enough: it is written when the result is known


def _after(
    outcome: pluggy.Result[Any], hook: str, impls: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]
) -> None:
    called = ", ".join(impl.plugin_name for impl in reversed(impls)) or "nobody"
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    error = outcome.exception
    result = f"raised {error!r}" if error is not None else repr(outcome.get_result())
    print(f"mix-core: hook {hook}({given}) [{called}] -> {result}", file=sys.stderr)
