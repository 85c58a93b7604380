"""Predicted memory of each device against what simulated devices count, in layouts of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mix_core.config import RunConfig, load_config
from mix_core.models.outline import Outline
from mix_core.models.registry import get_family
from mix_core.planning.layouts import Grid, Layout
from mix_core.planning.memory import Setting, Stage
from mix_core.planning.search import memory_of
from mix_core.planning.work import Kernels, Numbers, Work
from mix_core.training.layout import layout_of
from mix_core.training.pipeline.split import pieces_of
from tests.integration.simulated_fleet import launch
from tests.integration.test_plan_memory import LIMIT, MINI, TINY

LENGTH, CELLS = 128, 96


def rows_of(count: int) -> dict[str, Any]:
    """Full rows with a picture each, as plan_memory.py takes them."""
    return {"rows": [LENGTH] * count, "pictures": [[1, 8, 12]] * count}


IN_TURN = {"passes": 4} | rows_of(1)
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
    "pipeline": {"keys": PIPELINE | LISTS, **IN_TURN},
    "pipeline, recompute": {"keys": PIPELINE | LISTS | RECOMPUTE, **IN_TURN},
    "pipeline of pieces": {"keys": PIECES, **IN_TURN},
    "tiny, tensor": {"keys": TENSOR, "model": TINY | HEADS},
    "tiny, stage 1": {"keys": {"sharding": "stage1"}, "model": TINY | HEADS},
}
PLAIN: dict[str, Any] = {"model": MINI | HEADS, "keys": {}, "packed": False, "passes": 1} | rows_of(4)


def predicted(case: dict[str, Any], kernels: dict[str, str], devices: int) -> list[int]:
    """What a plan says that a device of each stage needs."""
    family = get_family("qwen2_5_vl")
    outline = family.outline(family.config_from_dict(case["model"]))
    config, rows = load_config(arguments=case["keys"]), len(case["rows"])
    asked = layout_of(config, devices)
    layout = Layout(
        Grid(
            asked.tensor, asked.pipeline, config.virtual_pp_degree, stages_of(config, asked.pipeline, outline)
        ),
        data=asked.sizes["data"],
        sharding=asked.sharing,
        stage=asked.stage,
        micro=rows,
        passes=case["passes"],
        recompute="full" if config.recompute or asked.stage == 3 else "none",
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


def stages_of(config: RunConfig, stages: int, outline: Outline) -> tuple[tuple[Stage, ...], ...]:
    """The pieces of each stage."""
    pieces = pieces_of(config, stages, (outline.tower.layers, outline.decoder.layers), outline, True)
    found = [Stage(len(one.tower), len(one.decoder), one.first, one.joins, one.last) for one in pieces]
    return tuple(tuple(found[stage::stages]) for stage in range(stages))


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
