"""L1, the runtime: copies, streams, events, threads, memory, random state, processes."""

from __future__ import annotations

from mix_core.conformance import runtime_copies, runtime_memory, runtime_order, runtime_processes
from mix_core.conformance.case import Case
from mix_core.conformance.target import Target


def conformance_cases(target: Target) -> list[Case]:
    parts = (runtime_copies, runtime_order, runtime_memory, runtime_processes)
    return [case for part in parts for case in part.conformance_cases(target)]
