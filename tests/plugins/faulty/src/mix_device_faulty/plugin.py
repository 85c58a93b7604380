"""The hooks, each with its defects; kernels.py and runtime.py have theirs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from mix_core.plugin_api import (
    Capability,
    Collective,
    Decision,
    DeviceProfile,
    DeviceRuntime,
    Kernel,
    KernelRequest,
    Probe,
    Workload,
    hookimpl,
)

DEFECT = os.environ.get("FAULTY_DEFECT", "")
MIX_PLUGIN_API = (2, 0) if DEFECT == "api_major" else (1, 0)
asked = {"profile": 0}

if DEFECT == "import_raises":
    raise RuntimeError("no licence file")
if DEFECT == "import_paddle":
    import paddle  # noqa: F401


@hookimpl
def mix_probe() -> Probe:
    if DEFECT == "slow_probe":
        time.sleep(0.08)
    if DEFECT == "probe_opens_device":
        with open("/dev/zero", "rb") as device:
            device.read(1)
    if DEFECT == "probe_starts_program":
        import subprocess

        subprocess.run(["true"], check=True)
    return Probe("absent", 0, "there is no such card")


@hookimpl
def mix_profile() -> DeviceProfile:
    asked["profile"] += 1
    floats = ("float32", "bfloat16", "float16")
    return DeviceProfile(
        name="faulty",
        device_type="faulty",
        vendor="Faulty",
        priority=asked["profile"] if DEFECT == "profile_changes" else 10,
        dtypes={"default": (*floats, "flaot8") if DEFECT == "unknown_dtype" else floats},
        capabilities=frozenset(
            {Capability.COLLECTIVES, Capability.EVENTS, Capability.MEMORY_STATS, Capability.STREAMS}
        ),
        collective=None if DEFECT == "no_backend" else Collective("xccl"),
        launcher_variable="FLAGS_selected_faultys",
    )


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    if DEFECT == "hook_imports_paddle":
        import paddle  # noqa: F401
    if DEFECT == "hook_sets_variable":
        os.environ["FAULTY_TOUCHED"] = "1"
    return {"FAULTY_QUEUES": Decision(2, "why" if DEFECT == "no_reason" else "two queues are enough")}


@hookimpl
def mix_blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    if DEFECT == "black_list_not_applied" and workload.simulate:
        return {}
    name = "set_valeu" if DEFECT == "black_list_unknown" else "set_value_with_tensor"
    return {name: "the chip's kernel is wrong for small parts"}


@hookimpl
def mix_operator_support() -> Mapping[str, Any] | None:
    if DEFECT == "table_unknown_dtype":
        return {"source": "a data sheet", "operators": {"add": ["float23"]}}
    return None


@hookimpl
def mix_conformance() -> Mapping[str, Any] | None:
    entry = {"kind": "skip", "reason": "for a reason", "issue": "1", "until_version": "9"}
    if DEFECT == "exception_matches_nothing":
        return {"device": "faulty", "exceptions": [{"id": "L2/no_such_operator/*", **entry}]}
    if DEFECT == "own_cases":
        return {"device": "faulty", "case_modules": ["mix_device_faulty.cases"]}
    if DEFECT == "widened":
        widen = {**entry, "id": "L3/swiglu/plain/float32", "kind": "widen", "factor": 3.0}
        return {"device": "faulty", "exceptions": [widen]}
    if DEFECT == "skipped":
        return {"device": "faulty", "exceptions": [{**entry, "id": "L3/swiglu/plain/*"}]}
    if DEFECT == "expected_failure_passes":
        return {
            "device": "faulty",
            "exceptions": [{**entry, "id": "L3/swiglu/plain/float32", "kind": "fail"}],
        }
    return None


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | None:
    from mix_device_faulty import kernels

    return kernels.select(op, DEFECT, request)


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    from mix_device_faulty.runtime import FaultyRuntime

    return FaultyRuntime(index, DEFECT)


if DEFECT == "unknown_hook":

    @hookimpl
    def mix_kernels(op: str) -> None:
        """Misspelt."""
