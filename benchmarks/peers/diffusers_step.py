"""The peer of benchmarks/diffusion_step.py: diffusers on PyTorch, same workload, as its users run it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
    model = getattr(diffusers, source["_class_name"]).from_config(source)
    trains = arguments.task == workload.TRAIN
    if trains:
        model.train()
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

    def picture() -> float:
        return sample(model, arguments.model, given, arguments.sampling_steps)

    params = sum(parameter.numel() for parameter in model.parameters())
    what = train_step if trains else picture
    workload.print_line(workload.measure(arguments, program="diffusers+torch", params=params, run=what))


@torch.inference_mode()
def sample(model: torch.nn.Module, name: str, given: dict[str, Any], steps: int) -> float:
    """The latents of one picture by guided steps, as diffusers' pipelines take them; their mean square."""
    class_name, config = workload.SCHEDULERS[name]
    scheduler = getattr(diffusers, class_name)(**config)
    scheduler.set_timesteps(steps)
    model.eval()
    first = "hidden_states" if name == "sd3" else "sample"
    told = {key: value for key, value in given.items() if key not in (first, "timestep")}
    latents = given[first][:1] * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        x = torch.cat([latents, latents])
        if hasattr(scheduler, "scale_model_input"):
            x = scheduler.scale_model_input(x, timestep)
        away, towards = model(**{first: x}, timestep=timestep.expand(2), **told).sample.chunk(2)
        latents = scheduler.step(away + workload.GUIDANCE * (towards - away), timestep, latents).prev_sample
    return latents.square().mean().item()


if __name__ == "__main__":
    main()
