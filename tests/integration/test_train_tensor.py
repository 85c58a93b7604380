"""Tensor parallel as a user asks for it: ranks that share every layer train as one device does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mix_core.device import native
from mix_core.training.checkpoint import first_fault
from mix_core.training.state import StateReader
from tests.integration.rank_runs import (
    IDLE,
    LONG,
    RELATIVE,
    STEPS,
    alone,
    assert_same_run,
    inputs,
    on_ranks,
    succeed,
    train,
    write_learned,
)
from tests.integration.training_runs import assert_refused, metrics

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
TENSOR = ("--tensor_parallel_degree", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs(tmp_path_factory.mktemp("tensor"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", 1)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return on_ranks(folder, "two", 2, *TENSOR)


def test_two_devices_that_share_layers_train_as_one(one, two):
    """Attention dropout is on: a head drops the same weights on whatever device it is."""
    assert_same_run(two, one, idle=IDLE)
    records = [json.loads((run / "run.json").read_text())["model"] for run in (one, two)]
    assert records[0] == records[1], "parameters are counted once, whoever has them"


def test_what_is_divided_is_not_held(one, two):
    """Between steps: of decoder and embedding half the parameters and moments, 12 bytes a number, or more."""
    held = [metrics(run)[-1]["memory_bytes"] for run in (one, two)]
    weights = load_file(one / f"checkpoint-{STEPS}" / "model.safetensors")
    divided = sum(one.size for name, one in weights.items() if name[:6] == "model." and "norm" not in name)
    assert held[0] - held[1] >= 12 * divided / 2


def test_each_rank_writes_its_part_of_a_checkpoint(one, two):
    """Divided moments come half from either rank, moments that both have alike from the first alone."""
    last = two / f"checkpoint-{STEPS}"
    assert first_fault(last) is None
    found, wanted = StateReader(last), StateReader(one / f"checkpoint-{STEPS}")
    assert set(found.names()) == set(wanted.names())
    for name in found.names("optimizer."):
        np.testing.assert_allclose(found.read(name), wanted.read(name), rtol=1e-3, atol=1e-7, err_msg=name)
        offsets = [piece["offset"] for piece in found.entry(name)["pieces"]]
        if name.endswith("q_proj.weight"):
            assert offsets == [[0, 0], [0, 32]]
        elif name.endswith(("o_proj.weight", "embed_tokens.weight")):
            assert [column for _, column in offsets] == [0, 0] and offsets[1][0] > 0
        elif "norm" in name or ".visual." in name:
            assert len(offsets) == 1
    assert {path.name for path in (last / "training_state").iterdir()} == {
        "manifest.json",
        "optimizer-00001-of-00001.safetensors",
        "optimizer.rank1-00001-of-00001.safetensors",
        "random-00001-of-00001.safetensors",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tensor_parallel_degree", "3"), ("tensor_parallel_degree 3", "does not divide 2")),
        ((*TENSOR, "--module_stats_steps", "1"), ("module_stats_steps wants whole",)),
    ],
    ids=["degree", "statistics"],
)
def test_what_cannot_be_is_one_line_and_code_2(folder, words, says):
    assert_refused(train(folder, "bad", "--devices", "0,1", *words), 2, *says)


@pytest.mark.slow
def test_heads_that_do_not_divide_are_named(folder):
    words = ("--devices", "0,1,2", "--tensor_parallel_degree", "3")
    assert_refused(train(folder, "bad", *words), 2, "degree 3 does not divide num_attention_heads 4")


@pytest.mark.slow
def test_twenty_steps(tmp_path):
    """Rows 1, 4, 7 and 10 are text: some steps have no picture. From scratch, where the steps are all that a
    bias is, 2.1e-5 of one was seen."""
    folder = inputs(tmp_path, from_scratch=False, per_device_train_batch_size=1, shuffle=False)
    write_learned(folder / "model")
    words = ("--max_steps", str(LONG), "--save_steps", str(LONG))
    two = on_ranks(folder, "two", 2, *TENSOR, *words)
    assert_same_run(two, alone(folder, "one", 1, *words), LONG, IDLE)


@pytest.mark.slow
@pytest.mark.parametrize("again", ["false", "true"], ids=["kept", "recompute"])
def test_ranks_that_keep_some_of_the_tokens_train_as_one(folder, one, again):
    words = ("--sequence_parallel", "true", "--recompute", again)
    two = on_ranks(folder, f"tokens-{again}", 2, *TENSOR, *words)
    assert_same_run(two, one, idle=IDLE)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--sharding", "stage3")], ids=["data", "stage3"])
def test_two_pairs_of_ranks_see_other_samples(tmp_path, words):
    """Ranks 0 and 1 share the layers, as do 2 and 3; a pair may have a text alone, or no pass at all."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False)
    words = (*words, "--max_steps", str(LONG), "--save_steps", str(LONG))
    four = on_ranks(folder, "four", 4, *TENSOR, *words)
    assert_same_run(four, alone(folder, "one", 2, *words[-4:]), LONG, IDLE)
    reader = StateReader(four / f"checkpoint-{LONG}")
    writers = {piece["file"] for name in reader.names() for piece in reader.entry(name)["pieces"]}
    assert len(writers) == (3 if len(words) == 4 else 5), "files of moments, and one of random states"


@pytest.mark.slow
def test_a_run_changes_its_layout_on_the_way(folder, one, two):
    """From two devices that share layers to one, and back; and to two that see other samples."""
    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    layouts = {
        "shrunk": alone(folder, "shrunk", 1, "--resume", str(two / "checkpoint-4")),
        "grown": on_ranks(folder, "grown", 2, *TENSOR, "--resume", str(one / "checkpoint-4")),
        "turned": on_ranks(
            folder, "turned", 2, "--sharding", "stage2", "--resume", str(two / "checkpoint-4"),
            "--per_device_train_batch_size", "1",
        ),
    }  # fmt: skip
    for name in ("shrunk", "grown"):
        found = {row["step"]: row["loss"] for row in metrics(layouts[name])}
        assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE), name
    assert [row["step"] for row in metrics(layouts["turned"])] == [5, 6]


@pytest.mark.slow
def test_evaluation_asks_all_ranks_that_have_the_model(tmp_path):
    folder = inputs(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["eval"] = config["dataset"]["train"]
    config |= {"eval_max_new_tokens": 3, "evaluation_strategy": "steps", "eval_steps": 4}
    (folder / "config.json").write_text(json.dumps(config))
    two, one = on_ranks(folder, "two", 2, *TENSOR), alone(folder, "one", 1)
    results = [json.loads((run / "results.json").read_text()) for run in (two, one)]
    assert results[0] == pytest.approx(results[1], rel=RELATIVE)


@pytest.mark.slow
def test_frozen_layers_are_divided_and_saved(folder):
    words = ("--freeze_llm", "true", "--max_steps", "2", "--save_steps", "2")
    two = on_ranks(folder, "frozen", 2, *TENSOR, *words)
    assert_same_run(two, alone(folder, "frozen-one", 1, *words), 2, IDLE)


@pytest.mark.slow
def test_masters_of_narrow_parameters_are_divided(folder):
    words = ("--bf16", "--fp16_opt_level", "O2")
    rows = metrics(on_ranks(folder, "two-bf16", 2, *TENSOR, *words))
    wanted = metrics(alone(folder, "one-bf16", 1, *words))
    for key in ("loss", "grad_norm"):
        # a branch is rounded to 16 bits before ranks sum it
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in wanted], rel=2e-2)
    done = train(folder, "two-bf16", "--devices", "0,1", *TENSOR, *words, "--resume", "auto")
    assert "is trained already" in succeed(done)
