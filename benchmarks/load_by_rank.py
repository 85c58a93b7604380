"""What ranks read of a published checkpoint, and what they hold while they load it.

    python benchmarks/load_by_rank.py [--gib 2] [--shard_mib 256] [--ranks 2] [--divided] [--folder DIR]

Writes a random Qwen2.5-VL of about that size in float32, in the published layout, and has ranks load it on
simulated NPUs as training does; with --divided, as ranks that share its layers. Prints one JSON line: the
checkpoint's `tensors_mib` and the largest `shard_mib`; by rank, `read_mib`, what it read of the files'
tensors, and over all ranks `read_twice`, how many readings were not the first of a tensor; by rank, the most
that its device held above the parameters that it keeps (`device_above_mib`), that its arrays held on the host
(`host_mib`), and by which the process grew above those parameters, mapped files included
(`process_above_mib`). Needs mix-device-npu.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import workload

MIB = 1 << 20
HEAD_DIM, KV_HEADS, VOCABULARY = 128, 2, 32000


def size_of(hidden: int, gib: float) -> workload.Size:
    """As many layers as make a checkpoint of about this size, one at least."""
    inner = 5 * hidden
    layer = hidden * (2 * hidden + 2 * KV_HEADS * HEAD_DIM + 3 * inner)
    layers = max(1, round((gib * (1 << 28) - 2 * VOCABULARY * hidden) / layer))
    return workload.Size(hidden, layers, hidden // HEAD_DIM, KV_HEADS, inner, VOCABULARY, 4, 320, 5, 864)


def write_model(folder: Path, size: workload.Size, shard_bytes: int) -> None:
    """Write a random model of this size, in files of at most so many bytes."""
    import mix_core.device as device

    device.activate("cpu")
    from mix_core.models.registry import get_family

    family = get_family("qwen2_5_vl")
    config = workload.config_dict(size)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = family.build(family.config_from_dict(config))
    family.init_weights(model, 0)
    family.save_weights(model, folder, shard_bytes)


def rank_main(folder: Path, divided: bool) -> None:
    """One rank: load, and write what was seen to FOLDER/RANK.json."""
    import mix_core.device as device

    activation = device.activate()
    import paddle.distributed as dist

    from mix_core.device.ranks import job_of
    from mix_core.models.common.parts import held_box
    from mix_core.models.common.tensor_files import StoredTensor
    from mix_core.models.common.weights import filled_by
    from mix_core.models.parallel.across import Across
    from mix_core.models.parallel.loading import InTurn
    from mix_core.models.parallel.tensor import divide_model
    from mix_core.models.registry import load_model

    reads: list[tuple[str, int, int]] = []

    class Counted(StoredTensor):
        def read(self) -> Any:
            reads.append((self.file.name, self.start, self.size_bytes))
            return super().read()

    class Counting(InTurn):
        def __call__(self, slot: Any, stored: StoredTensor) -> None:
            super().__call__(slot, Counted(**vars(stored)))

    job = job_of(os.environ)
    dist.init_parallel_env()

    def divide(family: Any, model: Any) -> None:
        divide_model(model, family.tensor_plan or {}, Across(job.rank, job.ranks, None))

    before = activation.runtime.memory_stats()["allocated"], resident()
    started = time.perf_counter()
    tracemalloc.start()
    with filled_by(Counting(job)):
        model = load_model(folder / "model", divide=divide if divided else None)[2]
    seconds, host = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    held = sum(4 * held_box(one).size for one in model.parameters())
    found = {
        "reads": reads,
        "seconds": seconds,
        "held": held,
        "device": activation.runtime.memory_stats()["peak"] - before[0] - held,
        "host": host,
        "process": resident(highest=True) - before[1] - held,
    }
    (folder / f"{job.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def resident(*, highest: bool = False) -> int:
    """Bytes of this process in memory, now or at most."""
    wanted = "VmHWM:" if highest else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


def call(*words: str | Path, ranks: int = 0) -> None:
    """A Python program in a process of its own; with ranks, on as many simulated devices."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "MIX_SIMULATE": str(int(ranks > 0))}
    environ["MIX_SIM_DEVICES"] = str(max(ranks, 1))
    done = subprocess.run([sys.executable, *map(str, words)], env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the checkpoint and have the ranks load it -> the line to print."""
    own = Path(__file__).resolve()
    asked = ("--gib", arguments.gib, "--hidden", arguments.hidden, "--shard_mib", arguments.shard_mib)
    call(own, *asked, "--folder", folder, "--writes")
    devices = ",".join(map(str, range(arguments.ranks)))
    run = ("-m", "mix_core.cli.main", "run", "--device", "npu", "--simulate", "--", sys.executable)
    launcher = ("-m", "paddle.distributed.launch", "--devices", devices, "--log_dir", folder / "log")
    loads = (own, "--folder", folder, "--loads", *(["--divided"] if arguments.divided else []))
    call(*run, *launcher, *loads, ranks=arguments.ranks)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(arguments.ranks)]
    reads = [tuple(read) for rank in ranks for read in rank["reads"]]
    shards = [path.stat().st_size for path in (folder / "model").glob("*.safetensors")]

    def mib(key: str) -> list[float]:
        return [round(rank[key] / MIB, 1) for rank in ranks]

    return {
        "divided": arguments.divided,
        "tensors_mib": round(sum(size for _, _, size in set(reads)) / MIB, 1),
        "shards": len(shards),
        "shard_mib": round(max(shards) / MIB, 1),
        "read_mib": [round(sum(size for _, _, size in rank["reads"]) / MIB, 1) for rank in ranks],
        "read_twice": len(reads) - len(set(reads)),
        "held_mib": mib("held"),
        "device_above_mib": mib("device"),
        "host_mib": mib("host"),
        "process_above_mib": mib("process"),
        "seconds": round(max(rank["seconds"] for rank in ranks), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=2.0, help="of the checkpoint, about")
    parser.add_argument("--hidden", type=int, default=1536, help=f"a multiple of {KV_HEADS * HEAD_DIM}")
    parser.add_argument("--shard_mib", type=int, default=256, help="of a file at most")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--divided", action="store_true", help="ranks share the model's layers")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    parser.add_argument("--writes", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--loads", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.writes:
        size = size_of(arguments.hidden, arguments.gib)
        write_model(arguments.folder / "model", size, arguments.shard_mib * MIB)
        return
    if arguments.loads:
        rank_main(arguments.folder, arguments.divided)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        workload.print_line(measure(arguments, Path(name)))


if __name__ == "__main__":
    main()
