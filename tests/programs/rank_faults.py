"""Sums again and again; faults of ranks and of collectives show in the values. Argument: FOLDER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from fleet_parts import RANK, main

ROUNDS = 6


def program() -> dict[str, Any]:
    dist.init_parallel_env()
    Path(sys.argv[1], f"{RANK}.pid").write_text(str(os.getpid()))
    values, start = [], time.monotonic()
    for number in range(int(os.environ.get("ROUNDS", ROUNDS))):
        x = paddle.full([4], float(number + RANK))
        asked = time.monotonic()
        try:
            dist.all_reduce(x)
            values.append(x.numpy().tolist())
        except OSError:
            print(f"all_reduce {number} failed after {time.monotonic() - asked:.1f} s", file=sys.stderr)
            raise
    return {"values": values, "seconds": time.monotonic() - start}


main(program)
