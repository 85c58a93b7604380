"""Write qwen2_5_vl.npz: what transformers computes for a small model whose weights anyone can make again.

    python -m tests.goldens.make_qwen2_5_vl

Run from the root with torch and transformers 5.3.0 installed. Where they are not,
tests/parity/test_qwen2_5_vl_golden.py holds the model to this file. Weights are uniform numbers from Philox,
keyed by name, so that no random number generator of a library has to stay as it is.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.ops.philox import philox4x32, uniform
from tests.builders.checkpoints import flat_config
from tests.parity.batches import IDS, make_batch, positions

FILE = Path(__file__).parent / "qwen2_5_vl.npz"
NEW_TOKENS = 16
SIZES: dict[str, dict[str, Any]] = {
    "tied": {"text": {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2}},
    "untied": {
        "text": {
            "hidden_size": 48,
            "intermediate_size": 40,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
        },
        "vision": {"hidden_size": 24, "intermediate_size": 28},
        "tie_word_embeddings": False,
    },
}
ROWS: list[list[Any]] = [
    [2, ("image", (1, 6, 10)), 3, ("image", (1, 4, 4)), 4],
    [3, ("video", (2, 4, 6), 1.5), 5],
    [9],
]


def config_of(size: str) -> dict[str, Any]:
    return flat_config(IDS, 320, **SIZES[size])


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers for one weight: matrices keep the size of what they map, norms stay near 1."""
    count = int(np.prod(shape))
    counters = np.zeros((-(-count // 4), 4), np.uint32)
    counters[:, 0] = np.arange(len(counters))
    words = philox4x32(counters, np.array([zlib.crc32(name.encode()), 0], np.uint32))
    values = (2 * uniform(words.reshape(-1)[:count]) - 1).reshape(shape)
    if len(shape) > 1:
        return values * np.float32(np.sqrt(3.0 / np.prod(shape[1:])))
    return values * np.float32(0.1) if name.endswith("bias") else 1 + values * np.float32(0.1)


def main() -> None:
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from mix_core.models.qwen2_5_vl.weights import published_name

    golden: dict[str, np.ndarray] = {}
    for size in SIZES:
        config = config_of(size)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config)).float().eval()
        named = {published_name(name): parameter for name, parameter in model.named_parameters()}
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(torch.tensor(weight(name, tuple(parameter.shape))))
        batch = make_batch(config, ROWS)
        labels = np.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
        labels[np.arange(len(labels)), batch["attention_mask"].argmax(axis=1)] = -100
        given = {key: torch.tensor(value) for key, value in batch.items() if key != "second_per_grid_ts"}
        given["position_ids"] = torch.tensor(positions(config, batch))
        out = model(**given, labels=torch.tensor(labels))
        out.loss.backward()
        golden[f"{size}.logits"] = out.logits.detach().numpy()[batch["attention_mask"] == 1]
        golden[f"{size}.loss"] = np.array(out.loss.item(), np.float32)
        for name, parameter in named.items():
            golden[f"{size}.gradient.{name}"] = np.array(parameter.grad.norm().item(), np.float32)
        text_positions = np.maximum(np.cumsum(batch["attention_mask"], axis=1) - 1, 0)
        given["position_ids"] = torch.cat([torch.tensor(text_positions)[None], given["position_ids"]])
        model.generation_config.eos_token_id = None
        tokens = model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        golden[f"{size}.tokens"] = tokens[:, batch["input_ids"].shape[1] :].numpy().astype(np.int16)
    np.savez_compressed(FILE, **golden)
    print(f"wrote {FILE}, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
