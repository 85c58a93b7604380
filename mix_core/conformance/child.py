"""The process of one group of cases: `python -m mix_core.conformance.child PLAN RESULTS`.

PLAN is a JSON file of the runner. A line is appended to RESULTS before each case and after it, so that the
runner knows which case a crash interrupted.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mix_core.conformance.case import Case, Context, Mismatch
from mix_core.conformance.plan import all_cases
from mix_core.conformance.target import Target, find_target


def main(argv: list[str]) -> None:
    plan = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    results = Path(argv[1])
    target = find_target(plan["device"], simulated=plan["simulated"])
    cases = {case.id: case for case in all_cases(target)}
    wanted = [cases[name] for name in plan["cases"]]
    active = _activate(target, wanted[0]) if wanted[0].group.activates else None
    _write(results, ready=True)
    for case in wanted:
        _write(results, begins=case.id)
        widened = target.exceptions.of(case.id, "widen")
        context = Context(target, Path(plan["scratch"]), active, widened.factor if widened else 1.0)
        started = time.perf_counter()
        message = _run(case, context)
        seconds = time.perf_counter() - started
        _write(results, ends=case.id, message=message, seconds=seconds, facts=context.facts)


def _activate(target: Target, case: Case) -> Any:
    from mix_core.device import Workload, activate

    workload = Workload(simulate=target.simulated, deterministic=case.group.deterministic)
    return activate(target.name, workload=workload, allow_reexec=True)


def _run(case: Case, context: Context) -> str | None:
    """What is wrong, or None."""
    try:
        case.run(context)
    except Mismatch as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 (whatever a device raises makes the case red)
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[-600:] if len(text) > 600 else text}{where}"
    return None


def _write(results: Path, **fields: Any) -> None:
    with results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
