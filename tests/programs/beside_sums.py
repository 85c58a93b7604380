"""Whether a backward pass ends while a sum over ranks is on its way, for each case of FOLDER/cases.json.

A case as plan_memory.py has them. The sum begins as soon as the decoder's last norm has its gradient; a fault
of the simulator makes it slow.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from plan_memory import ACTIVE, batch_of  # activates the device

from mix_core.models.registry import get_family
from mix_core.training.precision import Precision

RANK = int(os.environ["PADDLE_TRAINER_ID"])


def pass_beside_a_sum(case: dict[str, Any]) -> dict[str, Any]:
    family = get_family(case["model"]["model_type"])
    model = family.build(family.config_from_dict(case["model"]))
    family.init_weights(model, 0)
    model.recompute = case["recompute"]
    model.train()
    precision = Precision.of(case["dtype"], case["level"], ACTIVE)
    precision.narrow(model)
    names = dict(model.named_parameters())
    values, sums = paddle.full([4], float(RANK + 1)), []
    names["model.norm.weight"]._register_backward_hook(
        lambda *_: sums.append(dist.all_reduce(values, sync_op=False))
    )
    with precision.computing():
        model.loss(batch_of(case))[0].backward()
    found = {
        "gradients": sum(parameter.grad is not None for parameter in names.values()) / len(names),
        "sums": len(sums),
        "was_under_way": not sums[0].is_completed(),
    }
    sums[0].wait()
    return found | {"values": values.tolist()}


def main(folder: Path) -> None:
    dist.init_parallel_env()
    found = [pass_beside_a_sum(case) for case in json.loads((folder / "cases.json").read_text())]
    (folder / f"{RANK}.json").write_text(json.dumps({"cases": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
