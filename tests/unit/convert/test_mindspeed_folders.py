"""MindSpeed-MM's release folders: what a rank's file holds, both directions, any stages, and what is refused.

The layout is compared with one that is written down here a second time, from mm-convert's rules.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mix_core.convert.run import Form, convert
from mix_core.convert.stages import parse_stages
from mix_core.errors import BadInputError, WeightsError
from tests.builders.convertible import tensors_of

VIT, LLM, GROUPS, VIT_HEADS = 4, 5, 2, 2


def model_of(folder: Path, rank: str, key: str = "model") -> dict[str, torch.Tensor]:
    found = torch.load(folder / "release" / rank / "model_optim_rng.pt", weights_only=True)
    assert found["checkpoint_version"] == 3.0
    return found[key]


def published_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


def test_one_stage_is_laid_out_as_mm_convert_does(tied_folder, tmp_path):
    convert(tied_folder, tmp_path / "mm", to="mindspeed-mm")
    assert (tmp_path / "mm/latest_checkpointed_iteration.txt").read_text() == "release"
    assert [p.name for p in (tmp_path / "mm/release").iterdir()] == ["mp_rank_00"]
    theirs, ours = model_of(tmp_path / "mm", "mp_rank_00"), published_of(tied_folder)
    text, tower = "text_decoder.decoder.layers.3.", "image_encoder.encoder.blocks.layers.2."
    parts = [ours[f"model.layers.3.self_attn.{one}_proj.weight"].chunk(GROUPS) for one in "qkv"]
    grouped = torch.cat([parts[i][g] for g in range(GROUPS) for i in range(3)])
    assert torch.equal(theirs[f"{text}self_attention.linear_qkv.weight"], grouped)
    gate_up = torch.cat([ours[f"model.layers.3.mlp.{one}_proj.weight"] for one in ("gate", "up")])
    assert torch.equal(theirs[f"{text}mlp.linear_fc1.weight"], gate_up)
    thirds = [one.chunk(VIT_HEADS) for one in ours["visual.blocks.2.attn.qkv.bias"].chunk(3)]
    relocated = torch.cat([thirds[i][h] for h in range(VIT_HEADS) for i in range(3)])
    assert torch.equal(theirs[f"{tower}self_attention.linear_qkv.bias"], relocated)
    same = {
        f"{text}pre_mlp_layernorm.weight": "model.layers.3.post_attention_layernorm.weight",
        f"{text}self_attention.linear_proj.weight": "model.layers.3.self_attn.o_proj.weight",
        f"{tower}mlp.linear_fc2.bias": "visual.blocks.2.mlp.down_proj.bias",
        "image_encoder.projector.layernorm.weight": "visual.merger.ln_q.weight",
        "image_encoder.encoder.patch_embed.proj.weight": "visual.patch_embed.proj.weight",
        "text_decoder.embedding.word_embeddings.weight": "model.embed_tokens.weight",
        "text_decoder.decoder.final_layernorm.weight": "model.norm.weight",
    }
    for name, published in same.items():
        assert torch.equal(theirs[name], ours[published]), name
    assert "text_decoder.output_layer.weight" not in theirs, "one stage ties the head itself"
    assert len(theirs) == 10 * VIT + 6 + 7 * LLM + 2


def test_stages_hold_what_their_layers_need(tied_folder, tmp_path):
    form = Form(vit_stages="[3,1,0]", llm_stages="[0,2,3]")
    report = convert(tied_folder, tmp_path / "mm", to="mindspeed-mm", form=form)
    assert report.stages.count == 3 and report.ranks == 1
    stages = [model_of(tmp_path / "mm", f"mp_rank_00_{i:03d}") for i in range(3)]

    def layers(state: dict, prefix: str) -> set[str]:
        return {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}

    assert [layers(s, "image_encoder.encoder.blocks.layers.") for s in stages] == [
        {"0", "1", "2"},
        {"0"},
        set(),
    ]
    assert [layers(s, "text_decoder.decoder.layers.") for s in stages] == [set(), {"0", "1"}, {"0", "1", "2"}]
    holds = [
        (s.keys() & {"text_decoder.embedding.word_embeddings.weight", "text_decoder.output_layer.weight"})
        for s in stages
    ]
    assert holds == [
        set(),
        {"text_decoder.embedding.word_embeddings.weight"},
        {"text_decoder.output_layer.weight"},
    ]
    assert "image_encoder.encoder.patch_embed.proj.weight" in stages[0]
    assert "image_encoder.projector.layernorm.weight" in stages[1]
    embedding = stages[1]["text_decoder.embedding.word_embeddings.weight"]
    assert torch.equal(stages[2]["text_decoder.output_layer.weight"], embedding), "tied over stages"
    ours = published_of(tied_folder)
    third = stages[2]["text_decoder.decoder.layers.1.mlp.linear_fc2.weight"]
    assert torch.equal(third, ours["model.layers.3.mlp.down_proj.weight"])


def test_tensor_parallel_ranks_share_as_megatron_does(untied_folder, tmp_path):
    convert(untied_folder, tmp_path / "mm", to="mindspeed-mm", form=Form(ranks=2))
    ranks = [model_of(tmp_path / "mm", f"mp_rank_{i:02d}") for i in range(2)]
    ours = published_of(untied_folder)
    layer = "text_decoder.decoder.layers.0."
    gate, up = (ours[f"model.layers.0.mlp.{one}_proj.weight"].chunk(2) for one in ("gate", "up"))
    down = ours["model.layers.0.mlp.down_proj.weight"].chunk(2, dim=1)
    for i, rank in enumerate(ranks):
        assert rank[f"{layer}mlp.linear_fc1.weight"].dtype == torch.bfloat16
        assert torch.equal(rank[f"{layer}mlp.linear_fc1.weight"], torch.cat([gate[i], up[i]]))
        assert torch.equal(rank[f"{layer}mlp.linear_fc2.weight"], down[i])
        assert torch.equal(rank["text_decoder.output_layer.weight"], ours["lm_head.weight"].chunk(2)[i])
        assert torch.equal(
            rank[f"{layer}input_layernorm.weight"], ours["model.layers.0.input_layernorm.weight"]
        )


@pytest.mark.parametrize(
    ("vit", "llm", "ranks"),
    [("[4]", "[5]", 1), ("[4,0,0]", "[1,2,2]", 2), ("[[3,1],[0,0]]", "[[0,1],[2,2]]", 1)],
)
def test_round_trip_is_bit_exact(published_folder, tmp_path, vit, llm, ranks):
    convert(published_folder, tmp_path / "mm", to="mindspeed-mm", form=Form(vit, llm, ranks))
    report = convert(tmp_path / "mm", tmp_path / "back", to="published", base=published_folder)
    assert tensors_of(tmp_path / "back") == tensors_of(published_folder)
    assert report.ranks == ranks and report.stages.llm == tuple(
        n for row in (json.loads(llm) if "[[" in llm else [json.loads(llm)]) for n in row
    )
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (published_folder / name).read_bytes()


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[str, str]:
    """Lists of a pipeline that can run: the text begins where the tower ends, or later."""
    count = draw(st.integers(1, 4))
    border = draw(st.integers(0, count - 1))
    cuts = sorted(draw(st.lists(st.integers(0, VIT), min_size=border, max_size=border)))
    vit = [b - a for a, b in zip([0, *cuts], [*cuts, VIT])] + [0] * (count - border - 1)
    last = max(i for i, n in enumerate(vit) if n)
    cuts = sorted(draw(st.lists(st.integers(0, LLM), min_size=count - last - 1, max_size=count - last - 1)))
    llm = [0] * last + [b - a for a, b in zip([0, *cuts], [*cuts, LLM])]
    return str(vit), str(llm)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=pipelines(), second=pipelines(), ranks=st.sampled_from([(1, 2), (2, 1), (2, 2)]))
def test_any_resplit_keeps_every_bit(tied_folder, tmp_path_factory, first, second, ranks):
    root = tmp_path_factory.mktemp("resplit")
    steps = [(tied_folder, root / "a", first, ranks[0]), (root / "a", root / "b", second, ranks[1])]
    for source, target, (vit, llm), count in steps:
        convert(source, target, to="mindspeed-mm", base=tied_folder, form=Form(vit, llm, count))
    report = convert(root / "b", root / "back", to="published", base=tied_folder)
    assert (str(list(report.stages.vit)), str(list(report.stages.llm))) == second
    assert tensors_of(root / "back") == tensors_of(tied_folder)
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("vit", "llm", "reason"),
    [
        ("[3,0]", "[1,4]", "add up to 3 layers, the model has 4"),
        ("[4,0]", "[1,5]", "add up to 6 layers, the model has 5"),
        ("[3,1]", "[1,4]", "the text's layers come after the tower's"),
        ("[4,0]", "[1,2,2]", "the same number of stages"),
        ("4", "[5]", "expected a list"),
        ("[4,-1]", "[5,0]", "expected a list"),
        ("[4", "[5]", "expected a list"),
        ("[0]", "[0]", "expected a list"),
        (None, "[5]", "belong together"),
    ],
)
def test_wrong_stages_are_refused(vit, llm, reason):
    with pytest.raises(BadInputError, match=reason) as error:
        parse_stages(vit, llm, vit_layers=VIT, llm_layers=LLM)
    assert "\n" not in str(error.value)


@pytest.fixture
def written(tied_folder, tmp_path) -> Path:
    convert(tied_folder, tmp_path / "mm", to="mindspeed-mm", form=Form("[4,0]", "[2,3]"))
    return tmp_path / "mm"


def refused(folder: Path, base: Path, reason: str) -> None:
    target = folder.parent / "back"
    with pytest.raises(WeightsError, match=reason) as error:
        convert(folder, target, to="published", base=base)
    assert "\n" not in str(error.value) and not target.exists()
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")], "nothing half-written is left"


def test_missing_ranks_weights_and_damaged_files_are_one_line(written, tied_folder):
    file = written / "release/mp_rank_00_001/model_optim_rng.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(written, tied_folder, "mp_rank_00_001/model_optim_rng.pt is refused or damaged")
    state = model_of(written, "mp_rank_00_000")
    torch.save({"model": {**state, "extra.weight": torch.zeros(2)}, "checkpoint_version": 3.0}, file)
    refused(written, tied_folder, "lacks the weight|holds extra.weight")
    file.write_bytes(whole)
    other = model_of(written, "mp_rank_00_001")
    for change, reason in (
        ({"text_decoder.output_layer.weight": other["text_decoder.output_layer.weight"] + 1}, "ties them"),
        ({"extra.weight": torch.zeros(2)}, "holds extra.weight, which config.json does not ask for"),
        (
            {"text_decoder.decoder.final_layernorm.weight": torch.zeros(3)},
            r"expected numbers of shape \[64\]",
        ),
    ):
        torch.save({"model": other | change, "checkpoint_version": 3.0}, file)
        refused(written, tied_folder, reason)
    file.unlink()
    refused(written, tied_folder, "lacks model_optim_rng.pt of tensor-parallel rank 0, stage 1")
    (written / "latest_checkpointed_iteration.txt").write_text("../../etc")
    refused(written, tied_folder, "expected release or a number of steps")


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_pt_file_executes_nothing(written, tied_folder, tmp_path):
    canary = tmp_path / "executed"
    file = written / "release/mp_rank_00_000/model_optim_rng.pt"
    torch.save({"model": model_of(written, "mp_rank_00_000"), "args": Evil(f"touch {canary}")}, file)
    refused(written, tied_folder, r"refused or damaged \(UnpicklingError: .*GLOBAL posix.system")
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists(), "the attack is real"


def test_a_training_checkpoint_is_read_with_its_arguments_and_extra_states(written, tied_folder, tmp_path):
    for stage in (0, 1):
        file = written / f"release/mp_rank_00_{stage:03d}/model_optim_rng.pt"
        state = model_of(written, f"mp_rank_00_{stage:03d}")
        state["text_decoder.output_layer._extra_state"] = None
        args = argparse.Namespace(lr=1e-5, params_dtype=torch.bfloat16)
        torch.save({"args": args, "iteration": 20, "checkpoint_version": 3.0, "model": state}, file)
    (written / "release").rename(written / "iter_0000020")
    (written / "latest_checkpointed_iteration.txt").write_text("20\n")
    convert(written, tmp_path / "back", to="published", base=tied_folder)
    assert tensors_of(tmp_path / "back") == tensors_of(tied_folder)


def test_ranks_that_do_not_divide_the_heads_are_refused(tied_folder, tmp_path):
    with pytest.raises(BadInputError, match=r"tp_size is 4, which does not divide .* 2 groups of heads"):
        convert(tied_folder, tmp_path / "mm", to="mindspeed-mm", form=Form(ranks=4))
    with pytest.raises(BadInputError, match="belong to --to mindspeed-mm"):
        convert(tied_folder, tmp_path / "mm", to="paddle", form=Form(ranks=2))
