"""Folders of PaddleNLP and PaddleMIX for every family: names, which matrices are turned, every bit back.

The names are compared with some of each kind that stand here a second time, from those tools' modelling code.
"""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mix_core.convert.pickled_arrays import read_pickled_arrays
from mix_core.convert.published import read_model
from mix_core.convert.run import Form, convert
from mix_core.errors import WeightsError
from mix_core.models.common.tensor_files import Outgoing, read_folder, write_folder
from mix_core.models.registry import get_family
from tests.builders.convertible import CONFIGS, authors_config, random_bits, tensors_of, write_model

FORMS = {
    "one pickle": Form(),
    "pickles": Form(max_shard_bytes=20_000),
    "safetensors": Form(max_shard_bytes=20_000, safetensors=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_names_and_shapes_are_those_of_the_model(name, tmp_path):
    model = read_model(write_model(tmp_path / "model", CONFIGS[name]))
    family = get_family(model.family)
    slots = family.slots(family.build(model.config))
    rename = family.published_name if model.family == "llava" else str
    assert {rename(key): tuple(slot.shape) for key, slot in slots.items()} == model.shapes


@pytest.mark.parametrize(
    "form",
    ["pickles", *(pytest.param(form, marks=pytest.mark.slow) for form in ("one pickle", "safetensors"))],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_bit_comes_back(name, form, tmp_path):
    source = write_model(tmp_path / "model", CONFIGS[name], "F32" if "tied" in name else "BF16")
    convert(source, tmp_path / "pd", to="paddle", form=FORMS[form])
    files = sorted(path.name for path in (tmp_path / "pd").iterdir() if path.suffix != ".json")
    assert {Path(file).suffix for file in files} == {".safetensors" if "safe" in form else ".pdparams"}
    assert (len(files) > 1) == (form != "one pickle"), files
    report = convert(tmp_path / "pd", tmp_path / "back", to="published")
    assert report.source_layout == "paddle"
    assert tensors_of(tmp_path / "back") == tensors_of(source)
    for file in ("config.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (source / file).read_bytes()


UPRIGHT, TURNED = False, True
NAMES: dict[str, dict[str, tuple[str, bool]]] = {
    "qwen2_vl": {
        "visual.blocks.1.mlp.fc1.weight": ("visual.blocks.1.mlp.fc1.weight", TURNED),
        "model.embed_tokens.weight": ("model.embed_tokens.weight", UPRIGHT),
        "lm_head.weight": ("lm_head.weight", TURNED),
    },
    "internvl2 internlm2": {
        "language_model.model.layers.2.attention.wqkv.weight": (
            "language_model.model.layers.2.attention.wqkv.weight",
            TURNED,
        ),
        "language_model.model.tok_embeddings.weight": ("language_model.model.tok_embeddings.weight", UPRIGHT),
        "language_model.output.weight": ("language_model.output.weight", TURNED),
        "vision_model.embeddings.position_embedding": ("vision_model.embeddings.position_embedding", UPRIGHT),
        "mlp1.3.weight": ("mlp1.3.weight", TURNED),
    },
    "internvl2 qwen2": {
        "language_model.model.layers.2.self_attn.k_proj.weight": (
            "language_model.qwen2.layers.2.self_attn.k_proj.weight",
            TURNED,
        ),
        "language_model.model.embed_tokens.weight": ("language_model.qwen2.embed_tokens.weight", UPRIGHT),
        "language_model.lm_head.weight": ("language_model.lm_head.weight", TURNED),
    },
    "internvl2 6B tower": {
        "language_model.model.norm.weight": ("language_model.llama.norm.weight", UPRIGHT),
        "vision_model.encoder.layers.3.attn.q_norm.weight": (
            "vision_model.encoder.layers.3.attn.q_norm.weight",
            UPRIGHT,
        ),
    },
    "llava-1.6 tied": {
        "language_model.model.embed_tokens.weight": ("llama.embed_tokens.weight", UPRIGHT),
        "language_model.model.layers.0.mlp.up_proj.weight": ("llama.layers.0.mlp.up_proj.weight", TURNED),
        "multi_modal_projector.linear_2.weight": ("llama.mm_projector.2.weight", TURNED),
        "image_newline": ("llama.image_newline", UPRIGHT),
        **{
            f"vision_tower.vision_model.{ours}": (
                f"llama.vision_tower.vision_tower.vision_model.{theirs}",
                turned,
            )
            for ours, theirs, turned in (
                ("embeddings.class_embedding", "class_embedding", UPRIGHT),
                ("embeddings.patch_embedding.weight", "conv1.weight", UPRIGHT),
                ("embeddings.position_embedding.weight", "positional_embedding.weight", UPRIGHT),
                ("pre_layrnorm.bias", "ln_pre.bias", UPRIGHT),
                ("encoder.layers.3.mlp.fc1.weight", "transformer.layers.3.linear1.weight", TURNED),
                ("encoder.layers.3.mlp.fc2.bias", "transformer.layers.3.linear2.bias", UPRIGHT),
                ("encoder.layers.3.layer_norm2.weight", "transformer.layers.3.norm2.weight", UPRIGHT),
                (
                    "encoder.layers.0.self_attn.out_proj.weight",
                    "transformer.layers.0.self_attn.out_proj.weight",
                    TURNED,
                ),
                ("post_layernorm.weight", "ln_post.weight", UPRIGHT),
            )
        },
    },
    "llava-1.5": {"language_model.lm_head.weight": ("lm_head.weight", TURNED)},
    "qwen_vl": {
        "transformer.wte.weight": ("transformer.llm.wte.weight", UPRIGHT),
        "transformer.h.1.attn.c_attn.weight": ("transformer.llm.h.1.attn.c_attn.weight", TURNED),
        "transformer.ln_f.weight": ("transformer.llm.ln_f.weight", UPRIGHT),
        "transformer.visual.conv1.weight": ("visual.vit.conv1.weight", UPRIGHT),
        "transformer.visual.positional_embedding": ("visual.vit.positional_embedding", UPRIGHT),
        "transformer.visual.transformer.resblocks.1.mlp.c_fc.weight": (
            "visual.vit.transformer.resblocks.1.mlp.c_fc.weight",
            TURNED,
        ),
        "transformer.visual.attn_pool.query": ("visual.attn_pool.query", UPRIGHT),
        "transformer.visual.attn_pool.pos_embed": ("visual.attn_pool.pos_embed", UPRIGHT),
        "transformer.visual.attn_pool.attn.in_proj_weight": ("visual.attn_pool.attn.in_proj_weight", TURNED),
        "transformer.visual.proj": ("visual.proj", UPRIGHT),
        "transformer.visual.ln_post.weight": ("visual.ln_post.weight", UPRIGHT),
        "lm_head.weight": ("lm_head.weight", TURNED),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_turned_matrices_are_those_of_the_tools(name, tmp_path):
    source = write_model(tmp_path / "model", CONFIGS[name])
    convert(source, tmp_path / "pd", to="paddle")
    with (tmp_path / "pd/model_state.pdparams").open("rb") as file:
        theirs = pickle.load(file)  # as those tools do; the file is our own
    ours = read_folder(source)
    assert len(theirs) == len(ours)
    for published, (expected, turned) in NAMES[name].items():
        values = ours[published].read()
        assert np.array_equal(theirs[expected], values.T if turned else values), published


def test_paddle_reads_what_is_written_array_by_array(tmp_path):
    import paddle

    source = write_model(tmp_path / "model", CONFIGS["qwen2_vl"])
    convert(source, tmp_path / "pd", to="paddle")
    loaded = paddle.load(str(tmp_path / "pd/model_state.pdparams"))
    assert {str(tensor.dtype) for tensor in loaded.values()} == {"paddle.bfloat16"}
    values = read_folder(source)["model.layers.1.mlp.down_proj.weight"].read()
    assert np.array_equal(loaded["model.layers.1.mlp.down_proj.weight"].view("uint16").numpy(), values.T)


def test_safetensors_are_written_as_paddlenlp_writes_them(tmp_path):
    """Through numpy, which calls bfloat16's bits uint16."""
    source = write_model(tmp_path / "model", CONFIGS["internvl2 qwen2"])
    convert(source, tmp_path / "pd", to="paddle", form=Form(safetensors=True))
    whole = (tmp_path / "pd/model.safetensors").read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert header.pop("__metadata__") == {"format": "np"}
    assert {entry["dtype"] for entry in header.values()} == {"U16"}
    theirs = load_file(tmp_path / "pd/model.safetensors")
    values = read_folder(source)["mlp1.1.weight"].read()
    assert np.array_equal(theirs["mlp1.1.weight"], values.T)


@pytest.mark.parametrize("upright", [True, False])
def test_a_repeated_tied_head_is_dropped_and_one_that_differs_is_refused(upright, tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["internvl2 qwen2 tied"], "F32")
    convert(source, tmp_path / "pd", to="paddle")
    path = tmp_path / "pd/model_state.pdparams"
    state = {name: one.read() for name, one in read_pickled_arrays(path).items()}
    embedding = state["language_model.qwen2.embed_tokens.weight"]
    head = embedding if upright else np.ascontiguousarray(embedding.T)
    path.write_bytes(pickle.dumps({**state, "language_model.lm_head.weight": head}, protocol=4))
    convert(tmp_path / "pd", tmp_path / "back", to="published")
    assert tensors_of(tmp_path / "back") == tensors_of(source)
    path.write_bytes(pickle.dumps({**state, "language_model.lm_head.weight": head[::-1]}, protocol=4))
    with pytest.raises(
        WeightsError, match=r"model_state\.pdparams: .*lm_head.weight differs from .*embed_tok"
    ):
        convert(tmp_path / "pd", tmp_path / "no", to="published")


def without_tower(folder: Path) -> None:
    path = folder / "model_state.pdparams"
    state = {name: one.read() for name, one in read_pickled_arrays(path).items()}
    path.write_bytes(pickle.dumps({k: v for k, v in state.items() if "vision_tower" not in k}, protocol=4))


def test_llavas_tower_may_lie_elsewhere_and_comes_from_the_base(tmp_path):
    source = write_model(tmp_path / "model", CONFIGS["llava-1.5"])
    convert(source, tmp_path / "pd", to="paddle")
    without_tower(tmp_path / "pd")
    with pytest.raises(WeightsError, match=r"lacks .* weights, the first vision_tower.*give --base FOLDER"):
        convert(tmp_path / "pd", tmp_path / "no", to="published")
    convert(tmp_path / "pd", tmp_path / "back", to="published", base=source)
    assert tensors_of(tmp_path / "back") == tensors_of(source)


def test_an_authors_llava_keeps_its_names_and_needs_no_tower(tmp_path):
    tower = tmp_path / "clip"
    tower.mkdir()
    vision = CONFIGS["llava-1.5"]["vision_config"]
    (tower / "config.json").write_text(json.dumps(vision))
    source = tmp_path / "authors"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(authors_config(tower)))
    rng, outgoing = np.random.default_rng(0), []
    names = {
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "multi_modal_projector.linear_2.": "model.mm_projector.2.",
    }
    for name, shape in read_model(source).shapes.items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                values = random_bits(shape, rng, "BF16")
                theirs += name.removeprefix(ours)
                outgoing.append(Outgoing(theirs, "BF16", shape, lambda values=values: values))
    write_folder(source, outgoing, 1 << 30)
    convert(source, tmp_path / "pd", to="paddle")
    theirs = read_pickled_arrays(tmp_path / "pd/model_state.pdparams")
    assert theirs["llama.embed_tokens.weight"].shape == (61, 32), "the vocabulary without added tokens"
    convert(tmp_path / "pd", tmp_path / "back", to="published")
    assert tensors_of(tmp_path / "back") == tensors_of(source)


def test_memory_is_that_of_a_few_weights(tmp_path):
    config = json.loads(json.dumps(CONFIGS["internvl2 internlm2"]))
    config["llm_config"] |= {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    source = write_model(tmp_path / "model", config, "F32")
    sizes = [len(bits) for _, _, bits in tensors_of(source).values()]
    tracemalloc.start()
    for form in (Form(), Form(safetensors=True)):
        target = tmp_path / f"pd {form.safetensors}"
        convert(source, target, to="paddle", form=form)
        convert(target, tmp_path / f"back {form.safetensors}", to="published")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) > 20 * max(sizes), "the bound means something"
    assert peak < 4 * max(sizes) + 2_000_000, f"{peak} bytes for weights of at most {max(sizes)}"
