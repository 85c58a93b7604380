"""A training script as a user of PaddleNLP writes it: its Trainer, a small Llama of its own, data in memory.

It knows nothing of mix-core; `make test-clients` runs it under `mix-core run`. Prints one JSON line.
"""

import argparse
import json

import numpy as np
import paddle
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, LENGTH, ROWS = 64, 32, 64


class Counting(paddle.io.Dataset):
    """Rows that count upwards from a random start: the next token is always the last one plus one."""

    def __init__(self):
        starts = np.random.default_rng(0).integers(0, VOCABULARY, ROWS)
        self.rows_BS = (starts[:, None] + np.arange(LENGTH + 1)) % VOCABULARY

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        row = self.rows_BS[index]
        return {"input_ids": row[:-1], "labels": row[1:]}


class Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs["loss"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True, help="PaddleNLP's own option: cpu, gpu, xpu or npu")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--max_steps", type=int, default=12)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, level O2")
    words = parser.parse_args()
    arguments = TrainingArguments(
        output_dir=words.output_dir,
        device=words.device,
        max_steps=words.max_steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=words.max_steps,
        seed=7,
        disable_tqdm=True,
        report_to=[],
        bf16=words.bf16,
        fp16_opt_level="O2" if words.bf16 else "O1",
    )
    paddle.set_device(arguments.device)
    paddle.seed(arguments.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        use_flash_attention=False,
        use_fused_rope=False,
    )
    model = LlamaForCausalLM(config)
    losses = Losses()
    Trainer(model=model, args=arguments, train_dataset=Counting(), callbacks=[losses]).train()
    places = sorted({str(parameter.place) for parameter in model.parameters()})
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    print(json.dumps({"losses": losses.values, "places": places, "dtypes": dtypes}))


if __name__ == "__main__":
    main()
