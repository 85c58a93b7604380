"""The peer of benchmarks/diffusion_step.py: diffusers on PyTorch, same workload, as its users run it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import diffusers
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import diffusion_workload as workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    workload.add_arguments(parser)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    source = workload.CONFIGS[arguments.model]
    model = getattr(diffusers, source["_class_name"]).from_config(source).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=workload.LEARNING_RATE, weight_decay=workload.WEIGHT_DECAY, fused=True
    )
    given = {name: torch.from_numpy(array) for name, array in workload.inputs(arguments.model).items()}
    if arguments.model == "sdxl":
        given["added_cond_kwargs"] = {name: given.pop(name) for name in ("text_embeds", "time_ids")}

    def train_step() -> float:
        loss = (model(**given).sample ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    params = sum(parameter.numel() for parameter in model.parameters())
    workload.print_line(
        workload.measure(arguments, program="diffusers+torch", params=params, train_step=train_step)
    )


if __name__ == "__main__":
    main()
