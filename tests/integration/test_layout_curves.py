"""Layouts of two and of four devices of each chip train as one device does: losses, norms, weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.conformance.tiny_runs import built, divided_families, with_kv_heads
from mix_core.models.registry import get_family
from tests.integration.rank_runs import IDLE, LONG, RELATIVE, STEPS, write_learned
from tests.integration.simulated_fleet import launch, run_alone

pytestmark = pytest.mark.slow

PROGRAM = "layout_curves.py"
PLAIN: dict[str, Any] = {
    "rows": [48],
    "pictures": [[1, 4, 8]],
    "packed": False,
    "samples": 4,
    "steps": LONG,
}
ADAM = {"adam_epsilon": "1e-6", "weight_decay": "0.1"}
TENSOR, PIPELINE = {"tensor_parallel_degree": "2"}, {"pipeline_parallel_degree": "2"}
TOKENS = TENSOR | {"sequence_parallel": "true"}
PIECES = PIPELINE | {"virtual_pp_degree": "2"}
AGAIN = {"recompute": "true"}
SHARDING = {f"stage {stage}": {"sharding": f"stage{stage}"} for stage in (1, 2, 3)}

TWO: dict[str, dict[str, str]] = {
    "data": {},
    "data, sums beside the pass": {"overlap_grad_reduce": "true"},
    **SHARDING,
    "tensor": TENSOR,
    "tensor, tokens, recompute": TOKENS | AGAIN,
    "pipeline": PIPELINE,
    "pipeline, recompute": PIPELINE | AGAIN,
    "pieces": PIECES,
}
FOUR: dict[str, dict[str, str]] = {
    "data": {},
    **SHARDING,
    "stage 2 of pairs": {"sharding": "stage2", "sharding_parallel_degree": "2"},
    "tensor, data": TENSOR,
    **{f"tokens, {name}": TOKENS | keys for name, keys in SHARDING.items()},
    "pipeline, data": PIPELINE,
    **{f"pipeline, {name}": PIPELINE | keys for name, keys in SHARDING.items()},
    "pieces, stage 2": PIECES | SHARDING["stage 2"],
    "tensor, pipeline": TENSOR | PIPELINE,
    "tokens, pieces": TOKENS | PIECES,
    "four stages": {"pipeline_parallel_degree": "4"},
}
PRODUCTS = {"tensor, pipeline": TOKENS | PIPELINE, "pipeline, stage 3": PIPELINE | SHARDING["stage 3"]}
LORA = {"lora": "true", "lora_rank": "4", "adam_epsilon": "1e-4"}


def write_tiny(folder: Path, name: str) -> Path:
    """A family's tiny model that two ranks may share; its biases are not zero, as of one that has learned."""
    family, (model, _) = get_family(name), built(name, kv_heads=2)
    draws = np.random.default_rng(0)
    for parameter in (one for path, one in model.named_parameters() if path.endswith(".bias")):
        parameter.set_value(0.1 * draws.standard_normal(parameter.shape).astype(np.float32))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(with_kv_heads(family.tiny().config, 2)))
    family.save_weights(model, folder)
    return folder


def cases_of(model: Path, layouts: dict[str, dict[str, str]], **more: Any) -> dict[str, dict[str, Any]]:
    config = json.loads((model / "config.json").read_text())
    of_all = PLAIN | {"model": config, "checkpoint": str(model)} | more
    return {name: of_all | {"keys": ADAM | keys} for name, keys in layouts.items()}


@dataclass(frozen=True)
class Run:
    """One case: what each rank saw, and the weights at its end."""

    curves: list[dict[str, list[float]]]
    weights: dict[str, np.ndarray]


def alone(folder: Path, device: str, cases: dict[str, dict[str, Any]]) -> dict[str, Run]:
    """The cases on one device."""
    folder = write_cases(folder / "one", cases)
    seen = run_alone(folder, device, PROGRAM)
    runs = {name: Run([seen[at]], weights_of(folder, 1, at)) for at, name in enumerate(cases)}
    for run in runs.values():
        assert max(run.curves[0]["loss"]) > 1.001 * min(run.curves[0]["loss"]), "it learns"
    return runs


def on_ranks(folder: Path, device: str, cases: dict[str, dict[str, Any]], count: int) -> dict[str, Run]:
    """The cases on `count` devices."""
    folder = write_cases(folder / str(count), cases)
    seen = launch(folder, device, PROGRAM, count=count).ranks
    return {
        name: Run([rank[at] for rank in seen], weights_of(folder, count, at)) for at, name in enumerate(cases)
    }


def write_cases(folder: Path, cases: dict[str, dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "cases.json").write_text(json.dumps(list(cases.values())))
    return folder


def weights_of(folder: Path, count: int, case: int) -> dict[str, np.ndarray]:
    """Put together what the ranks have of the weights after a case."""
    whole: dict[str, np.ndarray] = {}
    parts: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for rank in range(count):
        with np.load(folder / f"{rank}-{case}.npz") as file:
            for key, values in file.items():
                name, at, offset = key.partition("@")
                if at:
                    parts.setdefault(name, {})[tuple(map(int, filter(None, offset.split(","))))] = values
                else:
                    whole[name] = values
    for name, boxes in parts.items():
        ends = [np.add(offset, values.shape) for offset, values in boxes.items()]
        whole[name] = np.full(np.max(ends, axis=0), np.nan, np.float32)
        for offset, values in boxes.items():
            whole[name][tuple(slice(o, o + n) for o, n in zip(offset, values.shape))] = values
    return whole


def assert_same(run: Run, wanted: Run, what: tuple[Any, ...]) -> None:
    for curves in run.curves:
        for key, values in wanted.curves[0].items():
            assert curves[key] == pytest.approx(values, rel=RELATIVE), (*what, key)
    assert not wanted.weights.keys() - run.weights.keys(), what
    for name, values in wanted.weights.items():
        if not name.endswith(IDLE):
            away = np.linalg.norm(run.weights[name] - values)
            assert away <= RELATIVE * np.linalg.norm(values), (*what, name)


@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_every_layout_trains_as_one_device(tmp_path, device):
    """20 steps of 4 samples, with dropout, to 1e-5, with Adam's epsilon at 1e-6."""
    write_learned(tmp_path / "model", vision={"depth": 2, "fullatt_block_indexes": [1]})
    wanted = alone(tmp_path, device, cases_of(tmp_path / "model", {"one": {}}))
    for count, layouts in ((2, TWO), (4, FOUR)):
        found = on_ranks(tmp_path, device, cases_of(tmp_path / "model", layouts), count)
        for name in layouts:
            assert_same(found[name], wanted["one"], (count, name))


def test_every_family_trains_as_on_one_device(tmp_path):
    """20 steps of the model. 6 of adapters on it, with Adam's epsilon at 1e-4: they begin at zero, where of
    1e-6 it makes steps of rounding."""
    families = [name for name in divided_families() if name != "qwen2_5_vl"]
    folders = {name: write_tiny(tmp_path / name, name) for name in families}

    def cases(layouts: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
        found = {}
        for name, folder in folders.items():
            found |= cases_of(
                folder, {f"{name}, {layout}": keys for layout, keys in layouts.items()}, family=name
            )
            adapted = {f"{name}, adapters, {layout}": keys | LORA for layout, keys in layouts.items()}
            found |= cases_of(folder, adapted, family=name, steps=STEPS)
        return found

    wanted = alone(tmp_path, "npu", cases({"one": {}}))
    found = on_ranks(tmp_path, "npu", cases(PRODUCTS), 4)
    for what, run in found.items():
        name, kind, *_ = what.split(", ")
        assert_same(run, wanted[f"{name}, adapters, one" if kind == "adapters" else f"{name}, one"], (what,))
    assert len(families) == 4 and len(found) == 16
