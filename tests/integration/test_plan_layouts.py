"""Predicted memory of each device against what simulated devices count, in layouts of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mix_core.models.registry import get_family
from mix_core.planning.layouts import Grid, Layout
from mix_core.planning.memory import Setting, Stage
from mix_core.planning.search import memory_of
from mix_core.planning.work import Kernels, Numbers, Work
from tests.integration.simulated_fleet import launch
from tests.integration.test_plan_memory import LIMIT, MINI, TINY

LENGTH, ROWS, CELLS = 128, 4, 96
HEADS = {"num_key_value_heads": 2}
"""So that they divide."""
RECOMPUTE = {"recompute": "true"}
TENSOR = {"tensor_parallel_degree": "2", "sequence_parallel": "true"}
"""As plans write it."""
PIPELINE = {"pipeline_parallel_degree": "2"}
LISTS = {"vit_pp_layers": "[4,0]", "llm_pp_layers": "[1,3]"}
PIECES = PIPELINE | {
    "virtual_pp_degree": "2",
    "vit_pp_layers": "[[2,2],[0,0]]",
    "llm_pp_layers": "[[0,0],[2,2]]",
}
TWO: dict[str, dict[str, Any]] = {
    "data": {},
    "stage 1": {"keys": {"sharding": "stage1"}},
    "stage 2": {"keys": {"sharding": "stage2"}},
    "stage 3": {"keys": {"sharding": "stage3"}},
    "stage 2, two passes": {"keys": {"sharding": "stage2"}, "passes": 2},
    "tensor": {"keys": TENSOR},
    "tensor, recompute": {"keys": TENSOR | RECOMPUTE},
    "pipeline": {"keys": PIPELINE | LISTS, "passes": 4, "rows": 1},
    "pipeline, recompute": {"keys": PIPELINE | LISTS | RECOMPUTE, "passes": 4, "rows": 1},
    "pipeline of pieces": {"keys": PIECES, "passes": 4, "rows": 1},
    "tiny, tensor": {"keys": TENSOR, "model": TINY | HEADS},
    "tiny, stage 1": {"keys": {"sharding": "stage1"}, "model": TINY | HEADS},
}
PLAIN: dict[str, Any] = {"model": MINI | HEADS, "keys": {}, "rows": ROWS, "length": LENGTH, "passes": 1}


def predicted(case: dict[str, Any], kernels: dict[str, str], devices: int) -> list[int]:
    """What a plan says that a device of each stage needs."""
    family = get_family("qwen2_5_vl")
    outline = family.outline(family.config_from_dict(case["model"]))
    keys, rows = case["keys"], case["rows"]
    tensor, pipeline = (
        int(keys.get(name, 1)) for name in ("tensor_parallel_degree", "pipeline_parallel_degree")
    )
    each = int(keys.get("virtual_pp_degree", 1))
    streams = devices // (tensor * pipeline)
    stage = int(keys.get("sharding", "stage0")[-1])
    layout = Layout(
        Grid(tensor, pipeline, each, stages_of(keys, case["model"], pipeline)),
        data=1 if stage else streams,
        sharding=streams if stage else 1,
        stage=stage,
        micro=rows,
        passes=case["passes"],
        recompute="full" if "recompute" in keys or stage == 3 else "none",
    )
    work = Work(
        tokens=rows * LENGTH,
        spans=((LENGTH, rows),),
        labels=rows * (LENGTH - CELLS // 4 - 1),
        patches=rows * CELLS,
        patch_spans=((CELLS, rows),),
    )
    setting = Setting(numbers=Numbers.of("float32", "O1"), kernels=Kernels.seen(kernels, "float32", "O1"))
    return [one.total for one in memory_of(outline, layout, setting, work)]


def stages_of(keys: dict[str, str], model: dict[str, Any], stages: int) -> tuple[tuple[Stage, ...], ...]:
    """The pieces of each stage, as the keys list them."""
    if stages == 1:
        return ((Stage(model["vision_config"]["depth"], model["num_hidden_layers"]),),)
    chunks = [json.loads(keys[name]) for name in ("vit_pp_layers", "llm_pp_layers")]
    nested = [one if isinstance(one[0], list) else [one] for one in chunks]
    towers, decoders = ([number for part in one for number in part] for one in nested)
    joins = max(place for place, number in enumerate(towers) if number)
    pieces = [
        Stage(tower, decoder, place == 0, place == joins, place == len(towers) - 1)
        for place, (tower, decoder) in enumerate(zip(towers, decoders, strict=True))
    ]
    return tuple(tuple(pieces[stage::stages]) for stage in range(stages))


@pytest.mark.slow
def test_every_layout_needs_what_is_predicted(tmp_path: Path):
    cases = {name: PLAIN | changes for name, changes in TWO.items()}
    (tmp_path / "cases.json").write_text(json.dumps(list(cases.values())))
    off = {}
    for rank, seen in enumerate(launch(tmp_path, "npu", "plan_layouts.py").ranks):
        for (name, case), measured in zip(cases.items(), seen["cases"], strict=True):
            said = predicted(case, seen["kernels"], 2)[measured["stage"]]
            print(f"{name}, rank {rank}: {measured['peak'] / 2**20:.1f} MiB, predicted {said / 2**20:.1f}")
            if abs(said / measured["peak"] - 1) > LIMIT:
                off[name, rank] = said / measured["peak"]
    assert off == {}
