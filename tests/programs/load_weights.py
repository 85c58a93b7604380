"""Loads FOLDER/model alone or as a rank -> FOLDER/RANK.json: reads, peaks, places; RANK.npz: weights.

As training does; with `divided`, as ranks do that share its layers.
"""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from pathlib import Path

import mix_core.device as device

ACTIVE = device.activate()

import numpy as np  # noqa: E402 (after the settings)
import paddle.distributed as dist  # noqa: E402

from mix_core.device.ranks import job_of  # noqa: E402
from mix_core.inference.sharing import load_shared  # noqa: E402
from mix_core.models.common.parts import held_box, is_part  # noqa: E402
from mix_core.models.common.tensor_files import StoredTensor  # noqa: E402
from mix_core.models.parallel.loading import reading_in_turn  # noqa: E402
from mix_core.models.qwen2_5_vl import model as _  # noqa: E402, F401 (its code is not counted)
from mix_core.models.registry import load_model  # noqa: E402

READS: list[tuple[str, int, int]] = []
"""File, first byte and bytes of each tensor that this process read."""
PLAIN_READ = StoredTensor.read


def counted_read(stored: StoredTensor) -> np.ndarray:
    READS.append((stored.file.name, stored.start, stored.size_bytes))
    return PLAIN_READ(stored)


def main(folder: Path, divided: bool) -> None:
    job = job_of(os.environ)
    if job.ranks > 1 and not divided:
        dist.init_parallel_env()
    StoredTensor.read = counted_read
    runtime = ACTIVE.runtime
    before = runtime.memory_stats()["allocated"]
    tracemalloc.start()
    if divided:
        model = load_shared(folder / "model", job.ranks)
    else:
        with reading_in_turn(job):
            model = load_model(folder / "model")[2]
    host_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    memory = runtime.memory_stats()
    parameters = dict(model.named_parameters())
    np.savez(folder / f"{job.rank}.npz", **{name: one.numpy() for name, one in parameters.items()})
    parts = {name: held_box(one) for name, one in parameters.items() if is_part(one)}
    found = {
        "reads": READS,
        "host_peak": host_peak,
        "device_peak": memory["peak"] - before,
        "model": sum(4 * int(parameter.size) for parameter in model.parameters()),
        "parts": {name: [box.offset, box.shape] for name, box in parts.items()},
    }
    (folder / f"{job.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["divided"])
