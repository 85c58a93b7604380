"""A plain Paddle program that knows nothing of mix-core: it trains a small decoder and prints one JSON line.

benchmarks/run_settings.py runs it as it is and under `mix-core run`, to see what the settings alone give.
Shapes: B batch, S sequence, D model dim, N heads, H head dim, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import paddle
import paddle.nn.functional as F
from paddle import nn


class Block(nn.Layer):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_BSD):
        batch, length, dim = x_BSD.shape
        qkv = self.qkv(self.attention_norm(x_BSD)).reshape([batch, length, 3, self.heads, dim // self.heads])
        q_BSNH, k_BSNH, v_BSNH = qkv.unbind(axis=2)
        mixed = F.scaled_dot_product_attention(q_BSNH, k_BSNH, v_BSNH, is_causal=True)
        x_BSD = x_BSD + self.out(mixed.reshape([batch, length, dim]))
        return x_BSD + self.down(F.gelu(self.up(self.mlp_norm(x_BSD))))


class Decoder(nn.Layer):
    def __init__(self, vocabulary: int, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.LayerList([Block(dim, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)

    def forward(self, ids_BS):
        x_BSD = self.embedding(ids_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return self.head(self.norm(x_BSD))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    vocabulary = 32000

    paddle.seed(0)
    model = Decoder(vocabulary, arguments.dim, arguments.dim // 64, arguments.layers)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    ids_BS = paddle.randint(0, vocabulary, [1, arguments.seq + 1])

    seconds = []
    for _ in range(arguments.steps + 2):
        started = time.perf_counter()
        logits_BSV = model(ids_BS[:, :-1])
        loss = F.cross_entropy(logits_BSV.reshape([-1, vocabulary]), ids_BS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        value = float(loss)
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[2:])
    line = {
        "step_ms": step_s * 1e3,
        "train_tok_s": arguments.seq / step_s,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": value,
        "params": sum(int(parameter.size) for parameter in model.parameters()),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
