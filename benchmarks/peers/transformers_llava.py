"""The peer of benchmarks/llava_step.py: Hugging Face transformers and PEFT on PyTorch, same workload.

Runs as its users run it: scaled-dot-product attention, the fused AdamW, PyTorch's own choice of threads.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import peft
import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import llava_workload
import workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    llava_workload.add_arguments(parser)
    parser.add_argument("--kind", choices=llava_workload.KINDS, required=True)
    arguments = parser.parse_args()
    size, dtype = workload.SIZES[arguments.size], getattr(torch, arguments.dtype)

    torch.manual_seed(0)
    before_mib = llava_workload.peak_mib()
    config = LlavaNextConfig(**llava_workload.config_dict(size))
    model = LlavaNextForConditionalGeneration._from_config(config, attn_implementation="sdpa").to(dtype)
    if arguments.kind == "lora":
        maps = "|".join(llava_workload.DECODER_MAPS)
        adapters = peft.LoraConfig(
            r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=rf".*language_model.*\.({maps})"
        )
        model = peft.get_peft_model(model, adapters)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=workload.LEARNING_RATE,
        weight_decay=workload.WEIGHT_DECAY,
        fused=True,
    )
    arrays = llava_workload.batch(size, arguments.seq)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    learning = 0

    def train_step() -> float:
        nonlocal learning
        loss = model(**batch).loss
        loss.backward()
        # of the tower's last layer, which nothing depends on, there are no gradients
        learning = sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    model.train()
    line = llava_workload.measure(
        arguments,
        arguments.kind,
        program="transformers+peft+torch",
        learning=0,
        before_mib=before_mib,
        train_step=train_step,
    )
    workload.print_line(line | {"learning": learning})


if __name__ == "__main__":
    main()
