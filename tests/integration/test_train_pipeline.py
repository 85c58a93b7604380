"""Pipeline parallel as a user asks for it: ranks that have some layers each train as one device does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from mix_core.device import native
from mix_core.training.checkpoint import first_fault
from mix_core.training.state import StateReader
from tests.builders.checkpoints import write_checkpoint
from tests.integration.rank_runs import (
    IDLE,
    LONG,
    RELATIVE,
    STEPS,
    alone,
    assert_same_run,
    inputs,
    on_ranks,
    train,
)
from tests.integration.training_runs import assert_refused, metrics

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
PIPELINE = ("--pipeline_parallel_degree", "2")
PASSES = 3


def passes(count: int) -> tuple[str, str]:
    return "--gradient_accumulation_steps", str(count)


def long(*words: str, steps: int = LONG) -> tuple[str, ...]:
    return (*words, "--max_steps", str(steps), "--save_steps", str(steps))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", PASSES)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    lists = ("--vit_pp_layers", "[4,0]", "--llm_pp_layers", "[1,1]")
    return on_ranks(folder, "two", 2, *PIPELINE, *lists, *passes(PASSES))


def test_two_stages_train_as_one_device(one, two):
    """The head is the embedding's matrix, which both stages have; an epoch ends with a step of two passes."""
    assert_same_run(two, one, idle=IDLE)
    records = [json.loads((run / "run.json").read_text())["model"] for run in (one, two)]
    assert records[0] == records[1], "parameters are counted once, whoever has them"


def test_a_stage_holds_and_writes_its_own_layers(one, two):
    last = two / f"checkpoint-{STEPS}"
    assert first_fault(last) is None
    found, wanted = StateReader(last), StateReader(one / f"checkpoint-{STEPS}")
    assert set(found.names()) == set(wanted.names())
    writers: dict[str, set[str]] = {}
    for name in found.names("optimizer."):
        np.testing.assert_allclose(found.read(name), wanted.read(name), rtol=1e-3, atol=1e-7, err_msg=name)
        (piece,) = found.entry(name)["pieces"]
        writers.setdefault(piece["file"], set()).add(name.removeprefix("optimizer.mean."))
    first, second = (writers[f"optimizer{rank}-00001-of-00001.safetensors"] for rank in ("", ".rank1"))
    assert "visual.patch_embed.proj.weight" in first and "model.norm.weight" in second
    assert "model.embed_tokens.weight" in first, "a tied head is written once"
    memory = [metrics(run)[-1]["memory_bytes"] for run in (two, one)]
    assert memory[0] < 0.9 * memory[1]


def test_mindspeed_s_wrong_example_is_refused_before_a_rank_starts(folder):
    """Its form for four blocks and two layers: stage 0 begins with the decoder, stage 1 ends the tower."""
    lists = ("--vit_pp_layers", "[3,1]", "--llm_pp_layers", "[1,1]")
    done = train(folder, "bad", "--devices", "0,1", *PIPELINE, *lists)
    says = ("vit_pp_layers [3, 1] with llm_pp_layers [1, 1]", "stage 1 has 1 of the tower's blocks")
    assert_refused(done, 2, *says)
    assert not (folder / "bad" / "logs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--vit_pp_layers", "[3,0]", "--llm_pp_layers", "[1,1]"), "adds up to 3, and the model has 4"),
        (("--virtual_pp_degree", "4"), "asks for 8 pieces, and the model has 4 blocks"),
    ],
)
def test_what_the_model_cannot_be_cut_into_is_one_line_and_code_2(folder, words, says):
    assert_refused(train(folder, "bad", "--devices", "0,1", *PIPELINE, *words), 2, says)


@pytest.mark.slow
def test_twenty_steps(tmp_path):
    """Rows 1, 4, 7 and 10 are text: their passes send that there is no picture."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False)
    two = on_ranks(folder, "two", 2, *PIPELINE, *passes(4), *long())
    assert_same_run(two, alone(folder, "one", 4, *long()), LONG, IDLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("--sharding", "stage3"), ("--tensor_parallel_degree", "2", "--sequence_parallel", "true")],
    ids=["stage3", "sequence"],
)
def test_four_ranks_train_as_one(tmp_path, words):
    """Two pipelines that share their state, or one of which two ranks share each layer; other products are
    in test_layout_curves.py."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, shuffle=False)
    streams = 1 if "--tensor_parallel_degree" in words else 2
    four = on_ranks(folder, "four", 4, *PIPELINE, *words, *passes(4 // streams), *long())
    assert_same_run(four, alone(folder, "one", 4, *long()), LONG, IDLE)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recompute"])
def test_stages_of_two_pieces(tmp_path, recompute):
    """A tower in two pieces, a layer in each of the others; a last group of one pass."""
    folder = inputs(tmp_path, recompute=recompute)
    lists = ("--vit_pp_layers", "[[2,2],[0,0]]", "--llm_pp_layers", "[[0,0],[1,1]]")
    two = on_ranks(folder, "two", 2, *PIPELINE, *lists, "--virtual_pp_degree", "2", *passes(5))
    assert_same_run(two, alone(folder, "one", 5), idle=IDLE)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_pieces_of_two_pipelines_that_share(tmp_path, stage):
    """Two passes each, and at an epoch's end one has one more than the other, which joins in the sums."""
    folder = inputs(tmp_path)
    lists = ("--vit_pp_layers", "[[2,2],[0,0]]", "--llm_pp_layers", "[[0,0],[1,1]]")
    words = (*PIPELINE, *lists, "--virtual_pp_degree", "2", "--sharding", stage)
    four = on_ranks(folder, "four", 4, *words, *passes(2))
    assert_same_run(four, alone(folder, "one", 4), idle=IDLE)
    last = four / f"checkpoint-{STEPS}"
    assert first_fault(last) is None
    again = alone(folder, "again", 4, "--resume", str(four / "checkpoint-4"))
    assert metrics(again)[-1]["loss"] == pytest.approx(metrics(four)[-1]["loss"], rel=RELATIVE)


@pytest.mark.slow
def test_mindspeed_s_frozen_example(tmp_path):
    """The first stage has nothing that learns: nothing is sent back to it. The tower ends on the second."""
    folder = inputs(tmp_path, freeze_vit=True)
    lists = ("--vit_pp_layers", "[3,1]", "--llm_pp_layers", "[0,2]")
    two = on_ranks(folder, "two", 2, *PIPELINE, *lists, *passes(PASSES))
    assert_same_run(two, alone(folder, "one", PASSES), idle=IDLE)


@pytest.mark.slow
def test_a_head_of_its_own_and_uneven_stages(tmp_path):
    folder = inputs(tmp_path)
    text = {"attention_dropout": 0.1, "num_hidden_layers": 3}
    write_checkpoint(folder / "model", text=text, tie_word_embeddings=False)
    lists = ("--vit_pp_layers", "[4,0,0]", "--llm_pp_layers", "[0,2,1]")
    words = ("--pipeline_parallel_degree", "3", *lists, *passes(PASSES))
    assert_same_run(on_ranks(folder, "three", 3, *words), alone(folder, "one", PASSES), idle=IDLE)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--bf16",), ("--fp16", "--fp16_opt_level", "O2")], ids=["bf16", "fp16"])
def test_sixteen_bits_agree(folder, words):
    name = words[0].removeprefix("--")
    two = metrics(on_ranks(folder, f"two-{name}", 2, *PIPELINE, *passes(PASSES), *words))
    one = metrics(alone(folder, f"one-{name}", PASSES, *words))
    for key in ("loss", "grad_norm"):
        # where the model is cut a branch is rounded and added before its norm, not within it
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=2e-2)
    assert [row.get("loss_scale") for row in two] == [row.get("loss_scale") for row in one]


@pytest.mark.slow
def test_a_run_changes_its_layout_on_the_way(folder, one, two):
    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    runs = (
        alone(folder, "shrunk", PASSES, "--resume", str(two / "checkpoint-4")),
        on_ranks(folder, "grown", 2, *PIPELINE, *passes(PASSES), "--resume", str(one / "checkpoint-4")),
        on_ranks(
            folder, "turned", 2, "--tensor_parallel_degree", "2", *passes(PASSES),
            "--resume", str(two / "checkpoint-4"),
        ),
    )  # fmt: skip
    for run in runs:
        found = {row["step"]: row["loss"] for row in metrics(run)}
        assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE), run.name


@pytest.mark.slow
def test_evaluation_has_the_whole_model(tmp_path):
    folder = inputs(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["eval"] = config["dataset"]["train"]
    config |= {"eval_max_new_tokens": 3, "evaluation_strategy": "steps", "eval_steps": 4}
    (folder / "config.json").write_text(json.dumps(config))
    two, one = on_ranks(folder, "two", 2, *PIPELINE, *passes(2)), alone(folder, "one", 2)
    results = [json.loads((run / "results.json").read_text()) for run in (two, one)]
    assert results[0] == pytest.approx(results[1], rel=RELATIVE)
    assert_same_run(two, one, idle=IDLE)


@pytest.mark.slow
def test_tensor_and_pipeline_killed_at_a_random_step_and_resumed_as_data_parallel(tmp_path):
    """Four simulated NPUs, two ranks to a layer and two stages; a rank dies; two devices go on, each with all
    layers, to the weights of the undisturbed run."""
    folder = inputs(tmp_path, per_device_train_batch_size=1, save_steps=2)
    step, rank = random.randrange(3, LONG), random.randrange(4)
    layout = (*PIPELINE, "--tensor_parallel_degree", "2", *passes(4), "--max_steps", str(LONG))
    undisturbed = on_ranks(folder, "undisturbed", 4, *layout)
    done = train(folder, "killed", "--devices", "0,1,2,3", *layout, MIX_KILL_AT=f"forward:{step}@{rank}")
    assert_refused(done, 3, f"rank {rank} ended without saying why")
    resumed = on_ranks(folder, "killed", 2, "--resume", "auto", *passes(2), "--max_steps", str(LONG))
    assert [row["step"] for row in metrics(resumed)] == list(range(1, LONG + 1)), (step, rank)
    assert_same_run(resumed, undisturbed, LONG, IDLE)
