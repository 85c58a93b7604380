"""all_reduce of float32 between the ranks of `paddle.distributed.launch`, on whatever device Paddle has.

Rank 0 writes one JSON object to --out: `mib`, `ranks`, `median_s`, and `gb_s`, the bytes of one rank's
buffer (10^9) by seconds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import paddle
import paddle.distributed as dist


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dist.init_parallel_env()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    count = arguments.mib * 2**20 // 4
    x = paddle.full([count], float(rank + 1), dtype="float32")

    def once() -> float:
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(x)
        paddle.device.synchronize()
        return time.perf_counter() - started

    once()
    total = ranks * (ranks + 1) / 2
    found = x.numpy()
    assert found.min() == found.max() == total, f"all_reduce gave {found.min()} to {found.max()}, not {total}"
    median_s = statistics.median(once() for _ in range(arguments.repeats))
    line = {
        "mib": arguments.mib,
        "ranks": ranks,
        "place": str(x.place),
        "median_s": round(median_s, 4),
        "gb_s": round(4 * count / median_s / 1e9, 2),
    }
    if rank == 0:
        arguments.out.write_text(json.dumps(line))


if __name__ == "__main__":
    main()
