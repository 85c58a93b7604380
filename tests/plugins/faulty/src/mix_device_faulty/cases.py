"""Cases of the plugin's own: a green one, one that takes its process down, one that hangs, one after."""

from __future__ import annotations

import os
import time

from mix_core.conformance.case import Case, Context, Group, expect
from mix_core.conformance.target import Target

GROUP = Group("own", timeout_s=3.0)


def conformance_cases(target: Target) -> list[Case]:
    rows = (("green", green), ("abort", abort), ("hang", hang), ("wrong", wrong), ("after", green))
    return [Case(f"L1/own/{name}", f"{name} does what it is called", GROUP, run) for name, run in rows]


def green(context: Context) -> None:
    assert context.active is not None
    expect(context.active.name == "faulty", f"the device is {context.active.name}")


def abort(context: Context) -> None:
    os.abort()


def hang(context: Context) -> None:
    time.sleep(60)


def wrong(context: Context) -> None:
    expect(False, "got 2, expected 3")
