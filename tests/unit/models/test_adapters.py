"""Adapters in files: written and read again, parts of one published matrix, another model's refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mix_core.errors import BadInputError, MixError, WeightsError
from mix_core.models.common.adapter_files import (
    CONFIG,
    TENSORS,
    adapter_folder,
    modules_of,
    read_adapter,
    shortest_names,
)
from mix_core.models.common.adapters import AdapterSet, fingerprint
from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, merge_adapter, of_name
from mix_core.models.registry import ModelFamily, families, get_family

IDS = np.random.default_rng(0).integers(0, 256, (2, 7))
SETTINGS = LoRASettings(rank=3, alpha=6.0, dora=True, dropout=0.1)
HEADS, HEAD_DIM = 2, 128
"""Of the small model, which has one key/value head."""


def model_of(family: ModelFamily, seed: int = 0) -> Any:
    model = family.build(family.config_from_dict(family.tiny().config))
    family.init_weights(model, seed)
    model.eval()
    return model


def logits(model: Any) -> np.ndarray:
    return model.logits({"input_ids": IDS}).numpy()


def written(
    folder: Path, family: ModelFamily, *, end: str = "_proj", learned: tuple[str, ...] = ()
) -> tuple[Any, AdapterSet]:
    """An adapter with numbers in it, on the decoder's maps whose names end so, in `folder`."""
    model = model_of(family)
    adapters = AdapterSet(model, family)
    chosen = [one for one in adapters.maps if one.path.startswith("model.") and one.path.endswith(end)]
    made_for = fingerprint(chosen)
    add_adapter(model, chosen, "default", SETTINGS)
    init_adapter(chosen, "default", 0)
    rng = np.random.default_rng(1)
    for _, adapter in of_name(chosen, "default"):
        adapter.up.set_value(rng.normal(0, 0.1, adapter.up.shape).astype(np.float32))
    for name in learned:
        parameter = dict(model.named_parameters())[name]
        parameter.set_value(parameter.numpy() + 0.5)
    folder.mkdir()
    adapters.write(folder, "default", base="some/model", fingerprint=made_for, learned=learned)
    return model, adapters


@pytest.fixture(scope="module")
def family() -> ModelFamily:
    return get_family("qwen2_5_vl")


@pytest.fixture(scope="module")
def good(tmp_path_factory, family) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "good"
    written(folder, family)
    return folder


def test_what_an_adapter_replaced_comes_back_to_a_model_that_became_narrower(tmp_path, family):
    patches = "visual.patch_embed.proj.weight"
    written(tmp_path / "a", family, learned=(patches,))
    model = model_of(family)
    (own,) = (one for name, one in model.named_parameters() if name == patches)
    expected = own.astype("bfloat16").numpy()
    adapters = AdapterSet(model, family)
    adapters.add("x", read_adapter(tmp_path / "a"))
    model.to(dtype="bfloat16")
    assert not np.array_equal(own.numpy(), expected)
    adapters.use(None)
    assert np.array_equal(own.numpy(), expected)


def test_written_and_read_again(tmp_path, family):
    patches = "visual.patch_embed.proj.weight"
    model, _ = written(tmp_path / "a", family, learned=(patches, "model.norm.weight"))
    tensors = load_file(tmp_path / "a" / TENSORS)
    assert tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].shape == (3, 256)
    assert tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].shape == (320, 3)
    assert tensors["base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"].shape == (320,)
    assert tensors[f"base_model.model.{patches}"].shape == (160, 3, 2, 14, 14)
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["peft_type"] == "LORA" and (config["r"], config["lora_alpha"]) == (3, 6)
    assert config["use_dora"] and config["lora_dropout"] == 0.1
    assert config["modules_to_save"] == ["model.norm", "visual.patch_embed"]
    again = AdapterSet(model_of(family), family)
    alone = logits(again.model)
    again.add("x", read_adapter(tmp_path / "a"))
    assert np.array_equal(logits(again.model), logits(model))
    again.use(None)
    assert np.array_equal(logits(again.model), alone)  # what learned as a whole went too
    again.use("x")
    assert np.array_equal(logits(again.model), logits(model))
    # a run that goes back to its best checkpoint
    for _, adapter in of_name(again.maps, "x"):
        adapter.up.set_value(np.zeros(adapter.up.shape, np.float32))
    dict(again.model.named_parameters())[patches].set_value(np.zeros((1176, 160), np.float32))
    assert not np.array_equal(logits(again.model), logits(model))
    again.refill("x", read_adapter(tmp_path / "a"))
    assert np.array_equal(logits(again.model), logits(model))


@pytest.mark.parametrize("name", sorted(name for name, family in families().items() if family.tiny))
def test_files_and_published_weights_agree_in_every_family(tmp_path, name):
    """What the file's matrices make of the published weights is what merging makes of the model."""
    family = families()[name]
    model = model_of(family)
    adapters = AdapterSet(model, family)
    settings = LoRASettings(rank=3, alpha=6.0)
    add_adapter(model, adapters.maps, "default", settings)
    init_adapter(adapters.maps, "default", 0)
    rng = np.random.default_rng(1)
    for _, adapter in of_name(adapters.maps, "default"):
        adapter.up.set_value(rng.normal(0, 0.1, adapter.up.shape).astype(np.float32))
    adapters.write(tmp_path, "default", base="m", fingerprint=fingerprint(adapters.maps))
    before = {one.name: np.array(adapters.slots[f"{one.name}.weight"].values()) for one in adapters.maps}
    tensors = load_file(tmp_path / TENSORS)
    expected = logits(model)
    merge_adapter(model)
    for module, weight in before.items():
        down, up = (tensors[f"base_model.model.{module}.lora_{kind}.weight"] for kind in "AB")
        merged = adapters.slots[f"{module}.weight"].values()
        change = settings.scale * (up @ down).reshape(weight.shape)
        np.testing.assert_allclose(merged, weight + change, rtol=1e-5, atol=1e-6)
    again = AdapterSet(model_of(family), family)
    again.add("x", read_adapter(tmp_path))
    assert np.array_equal(logits(again.model), expected)


def test_parts_of_one_published_matrix_are_one_adapter(tmp_path, family):
    """As InternLM2's wqkv: for each key/value head its queries, then a key, then a value."""
    parts = {
        "q_proj": np.arange(HEADS * HEAD_DIM),
        "k_proj": HEADS * HEAD_DIM + np.arange(HEAD_DIM)[::-1],
        "v_proj": (HEADS + 1) * HEAD_DIM + np.arange(HEAD_DIM),
    }

    def published(name: str) -> str:
        for part in parts:
            name = name.replace(f"self_attn.{part}.", "attention.wqkv.")
        return name

    def rows(model: Any, name: str) -> np.ndarray | None:
        return parts.get(name.split(".")[-2])

    fused = replace(family, published_name=published, part_rows=rows)
    model, adapters = written(tmp_path / "a", fused)
    tensors = load_file(tmp_path / "a" / TENSORS)
    name = "base_model.model.model.layers.1.attention.wqkv"
    down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
    assert down.shape == (3, 256) and up.shape == ((HEADS + 2) * HEAD_DIM, 3)
    for one, adapter in of_name(adapters.maps, "default"):
        part = one.path.split(".")[-1]
        if part in parts and ".1." in one.path:
            assert np.array_equal(adapter.down.numpy(), down.T)
            assert np.array_equal(adapter.up.numpy(), up[parts[part]].T)
    # the shared matrix is one parameter, which learns once
    learning = [parameter for parameter, _ in model.named_parameters() if ".1.self_attn" in parameter]
    assert sum(parameter.endswith("adapters.0.down") for parameter in learning) == 2  # wqkv's and o_proj's
    again = AdapterSet(model_of(fused), fused)
    again.add("x", read_adapter(tmp_path / "a"))
    assert np.array_equal(logits(again.model), logits(model))


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path, good):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in (CONFIG, TENSORS):
            (tmp_path / f"checkpoint-{step}" / name).write_bytes((good / name).read_bytes())
    assert adapter_folder(tmp_path).name == "checkpoint-10"
    with pytest.raises(WeightsError, match=r"is no adapter; expected a folder with adapter_config.json"):
        adapter_folder(tmp_path / "checkpoint-2" / "nothing")


def changed_config(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | keys))

    return change


def changed_tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS)

    return apply


UP_PROJ = "base_model.model.model.layers.0.mlp.up_proj."


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (changed_config(peft_type="IA3"), "peft_type is 'IA3', expected 'LORA'"),
        (changed_config(bias="all"), "bias is 'all', which is not built"),
        (changed_config(alpha_pattern={"q_proj": 4}), "alpha_pattern"),
        (changed_config(r=0), "r is 0, expected a number above 0"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
        (lambda folder: (folder / TENSORS).unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / TENSORS).write_bytes(b"x" * 40), "truncated or no safetensors"),
        (changed_tensors(dict.clear), "holds no tensor"),
        (changed_tensors(lambda t: t.pop(UP_PROJ + "lora_B.weight")), "up_proj lacks or has too much"),
        (changed_tensors(lambda t: t.update({UP_PROJ + "lora_embedding_A": np.ones(3)})), "linear maps"),
        (
            changed_tensors(lambda t: t.update({UP_PROJ + "lora_A.weight": np.ones((3, 9), "f4")})),
            r"another model \(some/model\).*shape \(3, 9\), this model asks for \(3, 256\)",
        ),
        (
            changed_tensors(
                lambda t: t.update({k.replace("layers.0", "layers.7"): t.pop(k) for k in list(t)})
            ),
            r"another model \(some/model\): it changes model.layers.7.mlp.\w+, which this model does not",
        ),
        (changed_tensors(lambda t: t.update({"base_model.model.mlp9.weight": np.ones(3)})), "brings mlp9"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused_in_one_line(tmp_path, family, good, spoil, says):
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in (CONFIG, TENSORS):
        (folder / name).write_bytes((good / name).read_bytes())
    spoil(folder)
    with pytest.raises(WeightsError, match=says) as raised:
        AdapterSet(model_of(family), family).add("x", read_adapter(folder))
    assert isinstance(raised.value, MixError) and raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_an_adapter_for_other_weights_of_the_same_shapes_is_refused(family, good):
    with pytest.raises(WeightsError, match="the same shapes and other weights"):
        AdapterSet(model_of(family, seed=5), family).add("x", read_adapter(good))
    narrow = AdapterSet(model_of(family), family)
    narrow.model.to(dtype="bfloat16")  # a copy in 16 bits is the same model
    narrow.add("x", read_adapter(good))


def test_names_of_adapters(family, good):
    adapters = AdapterSet(model_of(family), family)
    adapters.add("x", read_adapter(good))
    with pytest.raises(BadInputError, match="two adapters are called x"):
        adapters.add("x", read_adapter(good))
    with pytest.raises(BadInputError, match="no adapter is called 'y'; there are: x"):
        adapters.use("y")


def test_names_that_select_the_same_modules_however_they_begin():
    targets = ["m.layers.0.mlp.up", "m.layers.1.mlp.up", "m.layers.0.attn.q"]
    others = ["visual.blocks.0.mlp.up", "visual.blocks.0.attn.qkv"]
    assert shortest_names(targets, others) == ["1.mlp.up", "layers.0.mlp.up", "q"]
    assert shortest_names(["a.b"], ["c.a.b"]) == ["a.b"]


def test_the_fewest_modules():
    names = ["v.a.weight", "v.a.bias", "v.b.0.weight", "v.b.1.weight", "m.x.weight"]
    assert modules_of(["v.a.weight", "v.b.0.weight", "v.b.1.weight"], names) == ["v"]
    assert modules_of(["v.a.weight", "v.b.0.weight"], names) == ["v.a", "v.b.0"]
    assert modules_of([], names) == []
