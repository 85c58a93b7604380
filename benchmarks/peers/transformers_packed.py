"""The peer of benchmarks/packed.py: transformers on PyTorch, samples padded or in one dense row.

As its users run it: scaled-dot-product attention, the fused AdamW, its own choice of threads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import packed_workload
import workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    packed_workload.add_arguments(parser)
    parser.add_argument("--form", choices=("padded", "dense"), required=True)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(**workload.config_dict(workload.SIZES[arguments.size]))
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=workload.LEARNING_RATE, weight_decay=workload.WEIGHT_DECAY, fused=True
    )
    arrays = packed_workload.batch(arguments, arguments.form)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def train_step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    model.train()
    workload.print_line(
        packed_workload.measure(
            arguments, program="transformers+torch", form=arguments.form, train_step=train_step
        )
    )


if __name__ == "__main__":
    main()
