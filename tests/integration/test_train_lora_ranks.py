"""Adapters on devices that share a model: divided layers and stages train and write them as one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mix_core.device import native
from mix_core.models.common.adapter_files import CONFIG, TENSORS
from mix_core.models.common.tensor_files import read_metadata
from mix_core.training.state import StateReader
from tests.builders.checkpoints import write_checkpoint
from tests.integration.rank_runs import RELATIVE, STEPS, alone, assert_same_run, inputs, on_ranks
from tests.integration.test_infer_tensor import SHARED, infer
from tests.integration.training_runs import metrics

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
TENSOR = ("--tensor_parallel_degree", "2")
PIPELINE = ("--pipeline_parallel_degree", "2")
LISTS = ("--vit_pp_layers", "[4,0]", "--llm_pp_layers", "[1,1]")
PASSES = 2
TWICE = ("--gradient_accumulation_steps", str(PASSES))
MAPS = [r"model\..*_proj", "attn.qkv"]
"""All of the decoder's, and of the tower, which is on each device whole."""


def inputs_of_adapters(folder: Path, **keys: object) -> Path:
    """DoRA with dropout on decoder and tower; the projector learns as a whole beside them."""
    defaults = {
        "from_scratch": False,
        "lora": True,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "use_dora": True,
        "lora_target_modules": MAPS,
        "freeze_mlp": False,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,  # of 1e-6 Adam makes steps of the rounding where a first gradient is near zero
    }
    inputs(folder, **(defaults | keys))
    write_checkpoint(folder / "model", text={"attention_dropout": 0.1}, weights=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs_of_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    return alone(folder, "one", PASSES)


@pytest.fixture(scope="module")
def divided(folder: Path) -> Path:
    return on_ranks(folder, "divided", 2, *TENSOR, *TWICE)


def assert_same_adapter(run: Path, other: Path, steps: int = STEPS) -> None:
    """The runs agree, and whoever loads the adapter is told the same of it."""
    assert_same_run(run, other, steps, written=TENSORS)
    last, wanted = (folder / f"checkpoint-{steps}" for folder in (run, other))
    assert read_metadata(last / TENSORS) == read_metadata(wanted / TENSORS)
    assert (last / CONFIG).read_text() == (wanted / CONFIG).read_text()
    records = [json.loads((folder / "run.json").read_text()) for folder in (run, other)]
    assert records[0]["model"] == records[1]["model"], "parameters are counted once, whoever has them"


def buffer_bytes(run: Path) -> int:
    return json.loads((run / "run.json").read_text())["checkpoints"]["buffer_bytes"]


def test_adapters_of_divided_maps_train_as_on_one_device(one, divided):
    """A map divided by outputs divides `up` and the lengths, one divided by inputs `down`."""
    assert_same_adapter(divided, one)
    assert buffer_bytes(divided) < buffer_bytes(one), "frozen weights are not copied to be written"
    state, prefix = StateReader(divided / f"checkpoint-{STEPS}"), "optimizer.mean.model.layers.0."
    offsets = {
        name.removeprefix(prefix): [piece["offset"] for piece in state.entry(name)["pieces"]]
        for name in state.names(prefix)
    }
    assert offsets["self_attn.q_proj.adapters.0.down"] == [[0, 0]]
    assert offsets["self_attn.q_proj.adapters.0.up"] == [[0, 0], [0, 32]]
    assert offsets["self_attn.q_proj.adapters.0.magnitude"] == [[0], [32]]
    assert offsets["self_attn.o_proj.adapters.0.down"] == [[0, 0], [32, 0]]
    assert offsets["self_attn.o_proj.adapters.0.up"] == [[0, 0]]
    assert offsets["self_attn.o_proj.adapters.0.magnitude"] == [[0]]


@pytest.fixture(scope="module")
def staged(folder: Path) -> Path:
    return on_ranks(folder, "staged", 2, *PIPELINE, *LISTS, *TWICE)


def test_adapters_of_stages_train_as_on_one_device(one, staged):
    assert_same_adapter(staged, one)
    assert buffer_bytes(staged) < buffer_bytes(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (2, (*TENSOR, "--sequence_parallel", "true", "--recompute", "true", *TWICE)),
        (4, (*TENSOR, *PIPELINE, *LISTS, *TWICE)),
        (4, (*TENSOR, "--sharding", "stage3")),
    ],
    ids=["sequence", "pipeline", "stage3"],
)
def test_products_of_layouts(folder, one, ranks, words):
    """With sharding, two pairs of devices see other samples."""
    name = f"products-{ranks}-{len(words)}"
    assert_same_adapter(on_ranks(folder, name, ranks, *words), one)


@pytest.mark.slow
def test_a_run_changes_its_layout_on_the_way(folder, one, divided, staged):
    def resume(run: Path) -> tuple[str, ...]:
        return "--resume", str(run / "checkpoint-4")

    wanted = {row["step"]: row["loss"] for row in metrics(one)}
    runs = (
        alone(folder, "shrunk", PASSES, *resume(divided)),
        on_ranks(folder, "grown", 2, *TENSOR, *TWICE, *resume(one)),
        on_ranks(folder, "turned", 2, *TENSOR, *TWICE, *resume(staged)),
    )
    for run in runs:
        found = {row["step"]: row["loss"] for row in metrics(run)}
        assert found == pytest.approx({step: wanted[step] for step in (5, 6)}, rel=RELATIVE), run.name


@pytest.mark.slow
@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_twenty_steps_of_adapters_that_have_learned(folder, one, device):
    """They go on with moments, so that no step is made of rounding alone, with Adam's epsilon at 1e-6."""
    last = STEPS + 20
    words = ("--resume", str(one / f"checkpoint-{STEPS}"), "--adam_epsilon", "1e-6", "--max_steps", str(last))
    words += ("--save_steps", str(last))
    wanted = alone(folder, f"on-{device}", PASSES, *words, device=device)
    for name, layout in (("tensor", TENSOR), ("pipeline", (*PIPELINE, *LISTS))):
        run = on_ranks(folder, f"{name}-on-{device}", 2, *layout, *TWICE, *words, device=device)
        assert_same_run(run, wanted, last, written=TENSORS, resumed=STEPS)


@pytest.mark.slow
def test_two_devices_answer_with_an_adapter_as_one_does(folder, one):
    asked = ("--prompt", "What is it?", "--json")
    with_it = (*asked, "--lora", f"named={one}")
    found = []
    for words in (asked, with_it, (*with_it, *SHARED)):
        done = infer(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(json.loads(done.stdout))
    plain, alone_, shared = (answer["text"] for answer in found)
    assert plain != alone_ == shared


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Plain adapters, which run in one operator with their maps; the embedding learns as a whole, and the run
    goes back to its first checkpoint. -> the inputs, the run on one device."""
    keys = {
        "use_dora": False,
        "lora_dropout": 0.0,
        "freeze_exclude": ["model.embed_tokens.weight"],
        "eval_with_do_generation": False,
        "evaluation_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
        "greater_is_better": True,
        "load_best_model_at_end": True,
    }
    folder = inputs_of_adapters(tmp_path_factory.mktemp("evaluated"), **keys)
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["eval"] = config["dataset"]["train"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder, alone(folder, "one", PASSES)


@pytest.mark.slow
@pytest.mark.parametrize("words", [TENSOR, (*PIPELINE, *LISTS)], ids=["tensor", "pipeline"])
def test_the_best_adapter_is_loaded_wherever_it_is_evaluated(evaluated, words):
    folder, one = evaluated
    two = on_ranks(folder, words[0].removeprefix("--"), 2, *words, *TWICE)
    assert_same_adapter(two, one)
    losses = [row["eval_loss"] for row in metrics(one) if "eval_loss" in row]
    assert max(losses) == losses[0] > 1.01 * losses[-1]
    for run in (one, two):
        assert json.loads((run / "results.json").read_text())["loss"] == pytest.approx(
            losses[0], rel=RELATIVE
        )


@pytest.mark.slow
def test_masters_of_narrow_adapters_are_divided(folder):
    words = ("--bf16", "--fp16_opt_level", "O2")
    rows = metrics(on_ranks(folder, "two-bf16", 2, *TENSOR, *TWICE, *words))
    wanted = metrics(alone(folder, "one-bf16", PASSES, *words))
    for key in ("loss", "grad_norm"):
        # a branch is rounded to 16 bits before ranks sum it
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in wanted], rel=2e-2)
