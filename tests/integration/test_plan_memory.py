"""Predicted memory against what a simulated device counts in real training steps: within a tenth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mix_core.models.outline import PARTS
from mix_core.models.qwen2_5_vl.tiny import VISION, decoder_config
from mix_core.models.registry import get_family
from mix_core.planning.memory import Setting, device_memory
from mix_core.planning.work import Kernels, Numbers, Work
from tests.environment import run_simulated
from tests.integration.simulated_fleet import PROGRAMS, launch

LIMIT = 0.1
SPECIAL = dict(image_token_id=900, video_token_id=901, vision_start_token_id=902, vision_end_token_id=903)
TINY = {
    **decoder_config(),
    **SPECIAL,
    "model_type": "qwen2_5_vl",
    "vocab_size": 1000,
    "vision_config": VISION,
}
MINI = {
    **TINY,
    "num_hidden_layers": 4,
    "intermediate_size": 512,
    "vision_config": VISION | {"depth": 4, "fullatt_block_indexes": [1, 3], "intermediate_size": 320},
}
PLAIN: dict[str, Any] = dict(
    model=MINI,
    rows=[128] * 4,
    pictures=[[1, 8, 12]] * 4,
    packed=False,
    dtype="float32",
    level="O1",
    recompute=False,
    freeze=[],
    rank=0,
    passes=1,
    bunch=0,
)
BF16 = {"dtype": "bfloat16"}
BUNCH = 1 << 17
"""Numbers: some thirtieth of the model, as a bunch is of a large one."""
CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, recompute": {"recompute": True},
    "float32, selective": {"recompute": "attention"},
    "text alone": {"pictures": []},
    "two passes": {"passes": 2},
    "packed": {"packed": True, "rows": [64, 200, 120, 128]},
    "packed, bfloat16 O1": {"packed": True, "rows": [64, 200, 120, 128], **BF16},
    "frozen tower": {"freeze": ["visual."]},
    "adapters": {"rank": 8},
    "longer rows": {"rows": [256] * 4},
    "bfloat16 O1": BF16,
    "bfloat16 O1, longer rows": {"rows": [256] * 4, **BF16},
    "bfloat16 O1, recompute": {"recompute": True, **BF16},
    "bfloat16 O2": {"level": "O2", **BF16},
    "bfloat16 O2, recompute": {"level": "O2", "recompute": True, **BF16},
    "updated going back": {"bunch": BUNCH},
    "updated going back, recompute": {"bunch": BUNCH, "recompute": True},
    "updated going back, bfloat16 O2, recompute": {"bunch": BUNCH, "level": "O2", "recompute": True, **BF16},
    "tiny": {"model": TINY},
    "tiny, bfloat16 O2, frozen tower": {"model": TINY, "level": "O2", "freeze": ["visual."], **BF16},
}
RANKS = {
    "two ranks": {},
    "two ranks, recompute": {"recompute": True},
    "two ranks, bfloat16 O2": {"level": "O2", **BF16},
}


def predicted(case: dict[str, Any], kernels: dict[str, str], ranks: int = 1) -> int:
    """What a plan says that a device needs."""
    family = get_family("qwen2_5_vl")
    outline = family.outline(family.config_from_dict(case["model"]))
    rows, frames = case["rows"], [(h * w, t) for t, h, w in case["pictures"]]
    starts = [1 + length * count // 4 for length, count in frames] + [1] * (len(rows) - len(frames))
    longest = max(rows)
    work = Work(
        tokens=sum(rows) if case["packed"] else longest * len(rows),
        spans=tuple((length, 1) for length in rows) if case["packed"] else ((longest, len(rows)),),
        labels=sum(length - start for length, start in zip(rows, starts)),
        patches=sum(length * count for length, count in frames),
        patch_spans=tuple(frames),
    )
    setting = Setting(
        numbers=Numbers.of(case["dtype"], case["level"]),
        kernels=Kernels.seen(kernels, case["dtype"], case["level"]),
        recompute={False: "none", True: "full", "attention": "selective"}[case["recompute"]],
        learns={part: part == "decoder" or not case["freeze"] for part in PARTS},
        adapter_rank=case["rank"],
        accumulates=case["passes"] > 1,
        bunch=case["bunch"],
    )
    return device_memory(outline, work, setting, ranks=ranks).total


def assert_near(cases: dict[str, dict[str, Any]], seen: dict[str, Any], ranks: int = 1) -> None:
    off = {}
    for (name, changes), measured in zip(cases.items(), seen["cases"], strict=True):
        said = predicted(PLAIN | changes, seen["kernels"], ranks)
        print(f"{name}: measured {measured['peak'] / 2**20:.1f} MiB, predicted {said / 2**20:.1f}")
        assert measured["peak"] > 1.2 * measured["resident"], f"{name}: the step itself is too small to tell"
        if abs(said / measured["peak"] - 1) > LIMIT:
            off[name] = said / measured["peak"]
    assert off == {}


def write_cases(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    (folder / "cases.json").write_text(json.dumps([PLAIN | changes for changes in cases.values()]))


@pytest.mark.slow
def test_one_device_needs_what_is_predicted(tmp_path):
    write_cases(tmp_path, CASES)
    done = run_simulated([PROGRAMS / "plan_memory.py", tmp_path], tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_near(CASES, json.loads((tmp_path / "0.json").read_text()))


@pytest.mark.slow
def test_ranks_that_sum_gradients_need_what_is_predicted(tmp_path):
    write_cases(tmp_path, RANKS)
    launched = launch(tmp_path, "npu", "plan_memory.py")
    for seen in launched.ranks:
        assert_near(RANKS, seen, ranks=2)


@pytest.mark.slow
def test_kinds_of_recompute_give_one_curve_and_less_memory(tmp_path):
    kinds = {"none": False, "selective": "attention", "two of four blocks": 2, "full": True}
    write_cases(tmp_path, {kind: {"recompute": again} for kind, again in kinds.items()})
    done = run_simulated([PROGRAMS / "plan_memory.py", tmp_path], tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(zip(kinds, json.loads((tmp_path / "0.json").read_text())["cases"]))
    print({kind: f"{one['peak'] / 2**20:.1f} MiB" for kind, one in found.items()})
    assert all(one["losses"] == found["none"]["losses"] for one in found.values())
    assert len(set(found["none"]["losses"])) == 3
    peak = {kind: one["peak"] for kind, one in found.items()}
    assert peak["full"] < min(peak["selective"], peak["two of four blocks"])
    assert max(peak["selective"], peak["two of four blocks"]) < peak["none"]


@pytest.mark.slow
def test_a_backward_pass_goes_on_beside_a_sum(tmp_path):
    """From its first gradient on, nothing of it waits for the ranks: 4 seconds, that a pass never takes."""
    changes = [{}, {"recompute": True}, CASES["packed"], CASES["bfloat16 O1"], CASES["bfloat16 O2"]]
    (tmp_path / "cases.json").write_text(json.dumps([PLAIN | {"model": TINY} | one for one in changes]))
    slow = {"MIX_SIM_FAULTS": "rank:slow,rank=1,ms=4000"}
    for rank in launch(tmp_path, "npu", "beside_sums.py", **slow).ranks:
        for seen in rank["cases"]:
            assert seen == {"gradients": 1.0, "sums": 1, "was_under_way": True, "values": [3.0] * 4}
