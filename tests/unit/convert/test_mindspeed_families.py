"""MindSpeed-MM's folders for every family that it has: names, joined matrices, ranks, every bit back.

The layout is compared with one that is written down here a second time, from mm-convert's rules and, for
LLaVA-1.5, those of its converters.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mix_core.convert.mindspeed_names import absent
from mix_core.convert.published import read_model
from mix_core.convert.run import Form, convert
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import Outgoing, read_folder, write_folder
from tests.builders.convertible import CONFIGS, tensors_of, write_model

STAGED = [name for name in CONFIGS if not name.startswith(("llava", "qwen_vl"))]
SPLITS = [
    ("[4,0]", "[2,3]", 2),
    ("[3,1,0,0]", "[0,1,1,3]", 1),
    *(
        pytest.param(split, marks=pytest.mark.slow)
        for split in (
            ("[4]", "[5]", 1),
            ("[4]", "[5]", 2),
            ("[3,1]", "[0,5]", 1),
            ("[1,1,1,1]", "[0,0,0,5]", 2),
            ("[[2,2],[0,0]]", "[[0,1],[2,2]]", 2),
        )
    ),
]


def model_of(folder: Path, rank: str = "mp_rank_00") -> dict[str, torch.Tensor]:
    return torch.load(folder / "release" / rank / "model_optim_rng.pt", weights_only=True)["model"]


def published_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


def bits(tensor: torch.Tensor) -> bytes:
    """Random bits may be no number, and that is not equal to itself."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def same(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    return theirs.shape == ours.shape and bits(theirs) == bits(ours)


@pytest.mark.parametrize("name", STAGED)
def test_every_weight_has_a_place(name, tmp_path):
    assert absent(read_model(write_model(tmp_path / "model", CONFIGS[name]))) == frozenset()


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("name", STAGED)
def test_every_bit_comes_back(name, split, tmp_path):
    source = write_model(tmp_path / "model", CONFIGS[name], "F32" if "tied" in name else "BF16")
    form = Form(*split)
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=form)
    report = convert(tmp_path / "mm", tmp_path / "back", to="published", base=source)
    assert tensors_of(tmp_path / "back") == tensors_of(source)
    assert report.ranks == form.ranks
    lists = [json.loads(text) for text in split[:2]]
    flat = [tuple(n for row in one for n in row) if "[[" in split[0] else tuple(one) for one in lists]
    assert [report.stages.vit, report.stages.llm] == flat


def test_a_folder_goes_from_one_tool_to_the_other(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["internvl2 qwen2 tied"])
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=Form("[4,0]", "[2,3]", 2))
    convert(tmp_path / "mm", tmp_path / "pd", to="paddle", base=source)
    convert(tmp_path / "pd", tmp_path / "two", to="mindspeed-mm", form=Form("[1,3]", "[0,5]"))
    convert(tmp_path / "two", tmp_path / "back", to="published", base=source)
    assert tensors_of(tmp_path / "back") == tensors_of(source)


def test_qwen2_vls_tower_is_laid_out_as_mm_convert_does(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["qwen2_vl"])
    convert(source, tmp_path / "mm", to="mindspeed-mm")
    theirs, ours = model_of(tmp_path / "mm"), published_of(source)
    block, tower = "visual.blocks.2.", "image_encoder.encoder.blocks.layers.2."
    thirds = [one.chunk(2) for one in ours[f"{block}attn.qkv.weight"].chunk(3)]
    relocated = torch.cat([thirds[part][head] for head in range(2) for part in range(3)])
    assert same(theirs[f"{tower}self_attention.linear_qkv.weight"], relocated)
    for name, published in {
        f"{tower}mlp.linear_fc1.weight": f"{block}mlp.fc1.weight",
        f"{tower}mlp.linear_fc2.bias": f"{block}mlp.fc2.bias",
        f"{tower}input_layernorm.bias": f"{block}norm1.bias",
        "image_encoder.projector.layernorm.bias": "visual.merger.ln_q.bias",
        "image_encoder.projector.encoder.linear_fc2.weight": "visual.merger.mlp.2.weight",
        "text_decoder.output_layer.weight": "lm_head.weight",
    }.items():
        assert same(theirs[name], ours[published]), name


def test_internvl2_is_laid_out_as_mm_convert_does(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["internvl2 internlm2"])
    convert(source, tmp_path / "mm", to="mindspeed-mm")
    theirs, ours = model_of(tmp_path / "mm"), published_of(source)
    layer, text = "language_model.model.layers.1.", "text_decoder.decoder.layers.1."
    vit, tower = "vision_model.encoder.layers.3.", "image_encoder.encoder.encoder.layers.3."
    same_names = {
        f"{text}self_attention.linear_qkv.weight": f"{layer}attention.wqkv.weight",
        f"{text}self_attention.linear_proj.weight": f"{layer}attention.wo.weight",
        f"{text}mlp.linear_fc2.weight": f"{layer}feed_forward.w2.weight",
        f"{text}input_layernorm.weight": f"{layer}attention_norm.weight",
        f"{text}pre_mlp_layernorm.weight": f"{layer}ffn_norm.weight",
        "text_decoder.embedding.word_embeddings.weight": "language_model.model.tok_embeddings.weight",
        "text_decoder.decoder.final_layernorm.weight": "language_model.model.norm.weight",
        "text_decoder.output_layer.weight": "language_model.output.weight",
        f"{tower}self_attention.linear_qkv.weight": f"{vit}attn.qkv.weight",
        f"{tower}self_attention.linear_proj.bias": f"{vit}attn.proj.bias",
        f"{tower}mlp.linear_fc1.weight": f"{vit}mlp.fc1.weight",
        f"{tower}ls2": f"{vit}ls2",
        "image_encoder.encoder.embeddings.class_embedding": "vision_model.embeddings.class_embedding",
        "image_encoder.encoder.embeddings.patch_embedding.weight": (
            "vision_model.embeddings.patch_embedding.weight"
        ),
        "image_encoder.projector.norm.weight": "mlp1.0.weight",
        "image_encoder.projector.linear_fc2.weight": "mlp1.3.weight",
    }
    for name, published in same_names.items():
        assert same(theirs[name], ours[published]), name
    gate_up = torch.cat([ours[f"{layer}feed_forward.{part}.weight"] for part in ("w1", "w3")])
    assert same(theirs[f"{text}mlp.linear_fc1.weight"], gate_up)
    assert len(theirs) == len(ours) - 5, "five decoder layers join two weights each"


def test_internvl2s_ranks_share_heads_of_thirds_and_an_odd_vocabulary(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["internvl2 6B tower"])
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=Form(ranks=2))
    ours = published_of(source)
    ranks = [model_of(tmp_path / "mm", f"mp_rank_0{rank}") for rank in range(2)]
    tower, vit = "image_encoder.encoder.encoder.layers.0.", "vision_model.encoder.layers.0."
    heads = [third.chunk(3) for third in ours[f"{vit}attn.qkv.weight"].chunk(3)]  # 3 thirds of 3 heads
    columns = ours[f"{vit}attn.proj.weight"].chunk(3, dim=1)
    embedding = ours["language_model.model.embed_tokens.weight"]
    layer, text = "language_model.model.layers.0.", "text_decoder.decoder.layers.0."
    groups = [ours[f"{layer}self_attn.{part}_proj.weight"].chunk(2) for part in "qkv"]
    for rank, own, rows in ((0, slice(0, 2), slice(0, 46)), (1, slice(2, 3), slice(46, 91))):
        held = ranks[rank]
        expected = torch.cat([head for third in heads for head in third[own]])
        assert same(held[f"{tower}self_attention.linear_qkv.weight"], expected)
        assert same(held[f"{tower}self_attention.linear_proj.weight"], torch.cat(columns[own], dim=1))
        assert same(held["text_decoder.embedding.word_embeddings.weight"], embedding[rows])
        assert same(
            held[f"{text}self_attention.linear_qkv.weight"], torch.cat([part[rank] for part in groups])
        )
        assert same(held[f"{tower}self_attention.q_layernorm.weight"], ours[f"{vit}attn.q_norm.weight"])
        assert same(held["image_encoder.projector.linear_fc1.weight"], ours["mlp1.1.weight"])


def test_llava_is_laid_out_as_its_converters_do_and_comes_back_with_the_base(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["llava-1.5"])
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=Form(ranks=2))
    ours = published_of(source)
    ranks = [model_of(tmp_path / "mm", f"mp_rank_0{rank}") for rank in range(2)]
    clip, tower = "vision_tower.vision_model.", "image_encoder.encoder."
    layer = f"{clip}encoder.layers.2."
    heads = [ours[f"{layer}self_attn.{part}_proj.bias"].chunk(2) for part in "qkv"]
    for rank, held in enumerate(ranks):
        by_head = torch.cat([part[rank] for part in heads])
        assert same(held[f"{tower}decoder.layers.2.self_attention.linear_qkv.bias"], by_head)
        assert same(
            held[f"{tower}decoder.layers.2.input_layernorm.weight"], ours[f"{layer}layer_norm1.weight"]
        )
        assert held[f"{tower}class_token"].shape == (1, 1, 32)
        assert same(held[f"{tower}class_token"].reshape(32), ours[f"{clip}embeddings.class_embedding"])
        assert same(held[f"{tower}conv1.weight"], ours[f"{clip}embeddings.patch_embedding.weight"])
        assert same(held[f"{tower}ln_pre.weight"], ours[f"{clip}pre_layrnorm.weight"])
        first = ours["multi_modal_projector.linear_1.weight"].chunk(2)
        assert same(held["image_encoder.projector.encoder.linear_fc1.weight"], first[rank])
        assert not [name for name in held if "layers.3" in name and "image" in name], "which never runs"
    with pytest.raises(WeightsError, match=r"lacks 18 weights, the first .*layers\.3.*give --base FOLDER"):
        config = tmp_path / "config"
        config.mkdir()
        (config / "config.json").write_text((source / "config.json").read_text())
        convert(tmp_path / "mm", tmp_path / "no", to="published", base=config)
    convert(tmp_path / "mm", tmp_path / "back", to="published", base=source)
    assert tensors_of(tmp_path / "back") == tensors_of(source)


def test_parts_of_one_matrix_must_have_one_dtype(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["internvl2 qwen2"])
    found = read_folder(source)
    query = found["language_model.model.layers.0.self_attn.q_proj.weight"]
    mixed = [
        Outgoing(name, one.dtype, one.shape, one.read) for name, one in found.items() if one is not query
    ]
    mixed.append(
        Outgoing(
            "language_model.model.layers.0.self_attn.q_proj.weight", "F32", query.shape, query.read_float32
        )
    )
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/config.json").write_text((source / "config.json").read_text())
    write_folder(tmp_path / "mixed", mixed, 1 << 30)
    with pytest.raises(WeightsError, match=r"linear_qkv\.weight joins weights of F32, BF16, BF16"):
        convert(tmp_path / "mixed", tmp_path / "mm", to="mindspeed-mm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "model"]


@pytest.mark.parametrize(
    ("name", "form", "reason"),
    [
        (
            "qwen_vl",
            Form(),
            "no mindspeed-mm layout of qwen_vl; mindspeed-mm exists for qwen2_vl, qwen2_5_vl",
        ),
        ("llava-1.6 tied", Form(), "LLaVA-1.5 and no LLaVA-1.6"),
        ("llava-1.5", Form("[3,0]", "[2,3]"), "runs on one stage"),
        ("internvl2 6B tower", Form(ranks=4), "tp_size is 4, which does not divide"),
        ("qwen2_vl", Form(ranks=0), "tp_size is 0"),
        ("qwen2_vl", Form(max_shard_bytes=10), "max_shard_size does not belong"),
        ("qwen2_vl", Form(safetensors=True), "safe_serialization belongs to --to paddle"),
    ],
)
def test_what_does_not_exist_there_is_refused_by_name(name, form, reason, tmp_path):
    source = write_model(tmp_path / "model", CONFIGS[name])
    with pytest.raises(BadInputError, match=reason) as error:
        convert(source, tmp_path / "mm", to="mindspeed-mm", form=form)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
