"""L0, the contract: what a plugin declares and how its 'before' hooks behave. No device is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from mix_core.conformance.case import Case, Context, Group, Mismatch, expect
from mix_core.conformance.target import Target, host_environment

GROUP = Group("contract", activates=False, timeout_s=120.0)
PROBE_S = 0.05
HOOKS = (
    "mix_probe",
    "mix_profile",
    "mix_environment",
    "mix_allocator",
    "mix_stride_kernel",
    "mix_blacklisted_ops",
    "mix_operator_support",
    "mix_conformance",
)
TASKS = ("understanding", "generation")
PLACE_HOOKS = "docs/authoring.md"


def conformance_cases(target: Target) -> list[Case]:
    cases = [
        Case(
            "L0/plugin/loads", "the plugin imports, declares a known API and only known hooks", GROUP, _loads
        )
    ]
    if target.problem:
        return cases
    known = (
        ("plugin/import", "importing the plugin brings in no paddle and touches no device", _import_is_pure),
        ("probe/time", "mix_probe answers within 50 ms", _probe_is_quick),
        ("probe/answer", "mix_probe gives the same state twice, a count where usable, and a reason", _probe),
        ("profile/dtypes", "dtypes of the profile are Paddle's names, `default` among them", _dtypes),
        ("profile/collective", "COLLECTIVES and a collective backend are declared together", _collective),
        ("profile/versions", "the installed Paddle lies within the profile's range", _paddle_version),
        ("profile/same", "mix_profile gives equal profiles when asked twice", _same_profile),
        ("settings/compose", "settings compose for every workload, each with a reason", _settings),
        (
            "settings/black_list",
            "every black-listed operator is a name that Paddle's black list knows",
            _black_list,
        ),
        ("support/table", "the operator table names kernels and dtypes that exist", _table),
        ("exceptions/match", "every entry of conformance.toml is about a case", _exceptions),
    )
    for name, asks, run in known:
        cases.append(Case(f"L0/{name}", asks, GROUP, run))
    for hook in HOOKS:
        asks = f"{hook} imports no paddle, touches no device, changes no variable and does not raise"
        cases.append(
            Case(f"L0/pure/{hook}", asks, GROUP, lambda context, hook=hook: _hook_is_pure(context, hook))
        )
    return cases


def _loads(context: Context) -> None:
    expect(context.target.problem is None, f"the plugin cannot be used: {context.target.problem}")


@lru_cache(maxsize=1)
def _seen(device: str, scratch: Path) -> dict[str, Any]:
    path = scratch / "pure.json"
    command = [sys.executable, "-W", "ignore", "-m", "mix_core.conformance.pure", device, str(path)]
    done = subprocess.run(command, env=host_environment(), capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        raise Mismatch(f"asking the hooks ended the process ({done.returncode}): {done.stderr[-400:]}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _hook_seen(context: Context, hook: str) -> dict[str, Any]:
    seen: dict[str, Any] = _seen(context.target.profile.name, context.scratch).get(hook, {})
    return seen


def _import_is_pure(context: Context) -> None:
    _require_pure("importing the plugin", _hook_seen(context, "import"))


def _hook_is_pure(context: Context, hook: str) -> None:
    _require_pure(hook, _hook_seen(context, hook))


def _require_pure(what: str, seen: dict[str, Any]) -> None:
    expect(not seen["error"], f"{what} raised {seen['error']}")
    expect(not seen["paddle"], f"{what} imports paddle, which freezes settings that are yet to be made")
    expect(
        not seen["touched"],
        f"{what} {'; '.join(seen['touched'][:3])}: it may look at files and versions only",
    )
    expect(not seen["changed"], f"{what} changes {', '.join(seen['changed'])} in the environment")


def _probe_is_quick(context: Context) -> None:
    seconds = _hook_seen(context, "mix_probe")["seconds"]
    context.facts["seconds"] = seconds
    expect(
        seconds < PROBE_S,
        f"mix_probe took {seconds * 1e3:.0f} ms in the best of 3 calls, at most 50 expected",
    )


def _probe(context: Context) -> None:
    from mix_core.device import choice, discovery

    plugin = discovery.load(choice.find_entry(context.target.profile.name, discovery.find_entries()))
    first, second = discovery.probe(plugin), discovery.probe(plugin)
    expect(first == second, f"mix_probe said {first}, then {second}")
    expect(bool(first.reason.strip()), f"mix_probe says {first.state} without a reason")
    expect(
        context.target.simulated or first.state == "usable",
        f"the device is {first.state}: {first.reason}; with --simulate it need not be here",
    )


def _dtypes(context: Context) -> None:
    names = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}
    for kind, dtypes in context.target.profile.dtypes.items():
        wrong = [dtype for dtype in dtypes if dtype not in names and not dtype.startswith("float8")]
        expect(not wrong, f"dtypes[{kind!r}] holds {wrong}, which Paddle does not know")
    expect("float32" in context.target.profile.dtypes["default"], "dtypes['default'] lacks float32")


def _collective(context: Context) -> None:
    from mix_core.device.profile import Capability

    profile = context.target.profile
    declared, backend = profile.supports(Capability.COLLECTIVES), profile.collective
    expect(declared == (backend is not None), f"COLLECTIVES is {declared}, but collective is {backend}")


def _paddle_version(context: Context) -> None:
    from importlib import metadata

    versions = context.target.profile.paddle_versions
    found = next((d.version for d in metadata.distributions() if _is_paddle(d.metadata["Name"])), None)
    if versions is not None and found is not None:
        expect(
            versions.contains(found), f"Paddle is {found}, outside of {versions.bounds} ({versions.source})"
        )


def _is_paddle(name: str | None) -> bool:
    return (name or "").lower().replace("_", "-").startswith("paddlepaddle")


def _same_profile(context: Context) -> None:
    from mix_core.device import choice, discovery

    plugin = discovery.load(choice.find_entry(context.target.profile.name, discovery.find_entries()))
    first, second = discovery.profile(plugin), discovery.profile(plugin)
    expect(first == second, f"mix_profile gave {first}, then {second}")


def _settings(context: Context) -> None:
    from mix_core.device import Workload
    from mix_core.device.composition import ask_layer

    for task in TASKS:
        for ranks in (1, 8):
            layer = ask_layer("the plugin", context.target.module, Workload(task=task, world_size=ranks))  # type: ignore[arg-type]
            short = [k for k, d in layer.environment.items() if len(d.reason.split()) < 2]
            short += [k for k, reason in layer.blacklisted_ops.items() if len(reason.split()) < 2]
            expect(not short, f"{', '.join(short)} for {task} has no reason of two words or more")


def _black_list(context: Context) -> None:
    from mix_core.device import Workload, audit_kernels
    from mix_core.device.composition import ask_layer

    listed: set[str] = set()
    for task in TASKS:
        layer = ask_layer("the plugin", context.target.module, Workload(task=task))  # type: ignore[arg-type]
        listed |= set(layer.blacklisted_ops)
    if listed:
        known = audit_kernels.ask(sorted(listed), host_environment())["names"]
        wrong = sorted(listed - set(known))
        expect(
            not wrong, f"the black list holds {', '.join(wrong)}, which are no operator names of this Paddle"
        )


def _table(context: Context) -> None:
    support = context.target.support
    if support is None or support.get("operators") is None:
        return
    expect(
        bool(str(support.get("source", "")).strip()),
        "mix_operator_support does not say where its table is from",
    )
    dtypes = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}
    dtypes |= {"complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "pstring", "undefined", "uint16"}
    dtypes |= {"uint32", "uint64", "all_dtype", "all"}
    for kernel, of_kernel in support["operators"].items():
        wrong = [dtype for dtype in of_kernel if dtype not in dtypes]
        expect(not wrong, f"the table gives {kernel} the dtypes {wrong}, which Paddle does not know")
        expect(bool(of_kernel), f"the table gives {kernel} no dtype")


def _exceptions(context: Context) -> None:
    from mix_core.conformance.plan import all_cases, unmatched

    wrong = unmatched(context.target, all_cases(context.target))
    expect(not wrong, "; ".join(wrong))
