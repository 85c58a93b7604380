"""The peer of benchmarks/train_step.py: Hugging Face transformers on PyTorch, same workload.

Runs as its users run it: scaled-dot-product attention, the fused AdamW, PyTorch's own choice of threads.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    workload.add_arguments(parser)
    arguments = parser.parse_args()
    size = workload.SIZES[arguments.size]
    dtype = getattr(torch, arguments.dtype)

    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(**workload.config_dict(size))
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").to(dtype)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=workload.LEARNING_RATE, weight_decay=workload.WEIGHT_DECAY, fused=True
    )

    batch = {name: torch.from_numpy(array) for name, array in workload.batch(size, arguments.seq).items()}
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    # 1 marks an image token, 0 text: from it transformers 5 works out the three rotary axes.
    batch["mm_token_type_ids"] = (batch["input_ids"] == config.image_token_id).long()
    prompt = {name: tensor for name, tensor in batch.items() if name != "labels"}

    def train_step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    @torch.no_grad()
    def generate(tokens: int) -> None:
        model.eval()
        model.generate(**prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    model.train()
    line = workload.measure(
        arguments,
        program="transformers+torch",
        params=sum(parameter.numel() for parameter in model.parameters()),
        train_step=train_step,
        generate=generate,
    )
    workload.print_line(line)


if __name__ == "__main__":
    main()
