"""int8 weights against float32 in decoding: how much faster, and how near the answers stay.

For a model folder, or a small size with random weights, prints two JSON lines, float32 and int8, and a third
with what lies between them. Both answer in this process, in turn. Accuracy is taken along the float32
model's own greedy answer: int8 reads the same tokens, and each step's logits are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import workload


def models(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, np.ndarray], str]:
    """The model in float32, the same in int8, a prompt, and what they are."""
    import mix_core.device as device
    from mix_core.models.registry import get_family

    run = device.Workload(model="qwen2_5_vl", mode="infer", dtype="float32")
    device.activate("cpu", workload=run, kernels=arguments.kernels, allow_reexec=True)
    from mix_core.models.common.int8 import with_int8_weights

    if arguments.model is not None:
        import mix_core

        pair = [mix_core.load(arguments.model, weights=weights) for weights in (None, "int8")]
        words = [{"role": "user", "content": arguments.prompt}]
        text = pair[0].processor.apply_chat_template(words, add_generation_prompt=True)
        return pair[0].model, pair[1].model, pair[0].processor(text=[text]), str(Path(arguments.model).name)
    size = workload.SIZES[arguments.size]
    family = get_family("qwen2_5_vl")
    config = family.config_from_dict(workload.config_dict(size))
    built = []
    for _ in range(2):
        model = family.build(config)
        family.init_weights(model, 0)
        model.eval()
        built.append(model)
    with_int8_weights(built[1])
    prompt = {k: v for k, v in workload.batch(size, arguments.seq).items() if k != "labels"}
    return built[0], built[1], prompt, arguments.size


def follow(model: Any, prompt: dict[str, np.ndarray], tokens: Sequence[int]) -> tuple[np.ndarray, float]:
    """(steps + 1, V) logits after the prompt and after each of the tokens, and the seconds of the steps.

    Where a token is -1 the model goes on with its own most likely one.
    """
    cache = model.new_cache(1, prompt["input_ids"].shape[1] + len(tokens))
    rows = [model.prefill(cache, prompt)]
    started = time.perf_counter()
    for token in tokens:
        chosen = int(rows[-1].argmax()) if token < 0 else token
        rows.append(model.decode(cache, np.array([chosen])))
    rows[-1].numpy()
    seconds = time.perf_counter() - started
    return np.concatenate([row.numpy() for row in rows]), seconds


def weight_mib(model: Any) -> float:
    """Of all parameters and buffers."""
    held = [*model.parameters(), *model.buffers()]
    return sum(int(tensor.size) * tensor.element_size() for tensor in held) / 2**20


def shared(first: np.ndarray, second: np.ndarray) -> int:
    """Tokens before the two part."""
    differs = np.flatnonzero(first != second)
    return int(differs[0]) if len(differs) else len(first)


def measure(arguments: argparse.Namespace) -> None:
    exact, rounded, prompt, name = models(arguments)
    own = [-1] * arguments.decode
    logits, _ = follow(exact, prompt, own)
    greedy = logits.argmax(axis=1)
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    for _ in range(arguments.rounds):
        for weights, model in (("float32", exact), ("int8", rounded)):
            found, spent = follow(model, prompt, greedy[:-1].tolist())
            seconds[weights].append(spent)
    alone, _ = follow(rounded, prompt, own)
    rates = {}
    for weights, model in (("float32", exact), ("int8", rounded)):
        rates[weights] = arguments.decode / statistics.median(seconds[weights])
        line = {"program": "mix-core", "weights": weights, "model": name, "decode": arguments.decode}
        more = {"prompt_tokens": prompt["input_ids"].shape[1], "weight_mib": weight_mib(model)}
        workload.print_line(line | more | {"decode_tok_s": rates[weights]})
    pairs = zip(seconds["float32"], seconds["int8"])
    ahead = np.sort(logits, axis=1)
    workload.print_line(
        {
            "ratio_decode_tok_s": statistics.median(slow / fast for slow, fast in pairs),
            "ratio_weight_mib": weight_mib(exact) / weight_mib(rounded),
            "logits_error": float(np.linalg.norm(found - logits) / np.linalg.norm(logits)),
            "token_agreement": float((found.argmax(axis=1) == greedy).mean()),
            "same_answer_tokens": shared(alone.argmax(axis=1), greedy),
            "of_tokens": len(greedy),
            "float32_lead_over_deviation": float(
                ((ahead[:, -1] - ahead[:, -2]) / logits.std(axis=1)).mean(),
            ),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="model folder; without one, a small model with random weights")
    parser.add_argument("--prompt", default="Which digit is this?", help="question to the folder's model")
    parser.add_argument("--size", choices=sorted(workload.SIZES), default="mini")
    parser.add_argument("--seq", type=int, default=256, help="tokens of the random model's prompt")
    parser.add_argument("--decode", type=int, default=64, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--kernels", choices=("auto", "reference"), default="auto")
    arguments = parser.parse_args()
    from mix_core.cli.main import guarded

    sys.exit(guarded(lambda: measure(arguments), []))


if __name__ == "__main__":
    main()
