"""Published weights: read whole or refused by name, written so that the same model comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix_core.errors import WeightsError
from mix_core.models import load_model
from mix_core.models.common import tensor_files
from mix_core.models.common.tensor_files import INDEX, SINGLE, Outgoing, read_folder, write_folder
from tests.builders.checkpoints import flat_config

IDS = {"<|endoftext|>": 40, "<|im_end|>": 41, "<|vision_start|>": 42, "<|vision_end|>": 43}
IDS |= {"<|vision_pad|>": 44, "<|image_pad|>": 45, "<|video_pad|>": 46}
BATCH = dict(input_ids=np.array([[1, 2, 42, *[45] * 4, 43, 5]]), image_grid_thw=np.array([[1, 4, 4]]))
BATCH["pixel_values"] = np.random.default_rng(0).standard_normal((16, 1176)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """(family, config, model) with random weights."""
    folder = tmp_path_factory.mktemp("random")
    config = flat_config(
        IDS, 64, tie_word_embeddings=False, vision={"depth": 2, "fullatt_block_indexes": [1]}
    )
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(folder, random_init=True)


@pytest.fixture
def folder(model, tmp_path: Path) -> Path:
    """Its weights, in shards."""
    family, config, net = model
    family.save_weights(net, tmp_path, max_shard_bytes=100_000)
    family.write_config(config, tmp_path)
    return tmp_path


def stored(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(tensor.read()) for name, tensor in read_folder(folder).items()}


def rewrite(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    outgoing = [Outgoing(name, dtype, a.shape, lambda a=a: a) for name, a in tensors.items()]
    write_folder(folder, outgoing, 1 << 30)


def test_a_saved_model_comes_back_bit_for_bit(model, folder: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(p.size * 4 for p in model[2].parameters())
    again = load_model(folder)[2]
    np.testing.assert_array_equal(again(**BATCH).numpy(), model[2](**BATCH).numpy())


def test_the_safetensors_library_reads_what_we_write(model, folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= safetensors.load_file(path)
    assert set(found) == set(dict(model[2].named_parameters()))
    assert found["visual.patch_embed.proj.weight"].shape == (32, 3, 2, 14, 14)
    np.testing.assert_array_equal(
        found["model.layers.0.mlp.gate_proj.weight"], model[2].model.layers[0].mlp.gate_proj.weight.numpy().T
    )


def test_one_file_replaces_shards_and_their_index(model, folder: Path) -> None:
    model[0].save_weights(model[2], folder)
    assert (folder / SINGLE).is_file() and not (folder / INDEX).exists()
    np.testing.assert_array_equal(load_model(folder)[2](**BATCH).numpy(), model[2](**BATCH).numpy())


def test_names_as_transformers_has_them_in_memory(model, folder: Path) -> None:
    renamed = {}
    for name, array in stored(folder).items():
        if name.startswith("visual."):
            name = "model." + name
        elif name.startswith("model."):
            name = name.replace("model.", "model.language_model.", 1)
        renamed[name] = array
    rewrite(folder, renamed)
    np.testing.assert_array_equal(load_model(folder)[2](**BATCH).numpy(), model[2](**BATCH).numpy())


@pytest.mark.parametrize("dtype,limit", [("BF16", 2**-8), ("F16", 2**-11), ("F64", 0)])
def test_other_float_types_are_read(model, folder: Path, dtype: str, limit: float) -> None:
    exact = stored(folder)
    if dtype == "BF16":
        # upper half of float32, rounded to nearest
        written = {k: ((v.view(np.uint32) + 0x8000) >> 16).astype(np.uint16) for k, v in exact.items()}
    else:
        written = {k: v.astype({"F16": np.float16, "F64": np.float64}[dtype]) for k, v in exact.items()}
    rewrite(folder, written, dtype)
    for name, parameter in load_model(folder)[2].named_parameters():
        expected = dict(model[2].named_parameters())[name].numpy()
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=limit, atol=1e-7)


def test_a_narrow_model_is_read_and_written_in_its_own_type(model, folder: Path) -> None:
    exact = stored(folder)
    rewrite(folder, {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in exact.items()}, "BF16")
    family, config, _ = model
    narrow = family.build(config)
    for layer in narrow.sublayers(include_self=True):
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                layer._parameters[name] = paddle.base.framework.EagerParamBase.from_tensor(
                    parameter.astype("bfloat16")
                )
    family.load_weights(narrow, folder)
    before = stored(folder)
    family.save_weights(narrow, folder)
    after = read_folder(folder)
    assert {tensor.dtype for tensor in after.values()} == {"BF16"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor.read(), before[name])


def test_a_tied_head_that_a_file_repeats_is_passed_over(model, folder: Path) -> None:
    tensors = stored(folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    rewrite(folder, tensors | {"model.rotary_emb.inv_freq": np.zeros(8, np.float32)})
    net = load_model(folder)[2]
    assert net.lm_head is None


KEY = "model.layers.1.self_attn.k_proj.bias"


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.pop(KEY), f"lacks the weight {KEY};"),
        (lambda t: (t.pop(KEY), t.pop("model.norm.weight")), "lacks the weight model.* and 1 more"),
        (
            lambda t: t.update({KEY: np.zeros(31, np.float32)}),
            rf"{KEY} has shape \(31,\) .* asks for \(32,\)",
        ),
        (
            lambda t: t.update({"model.extra": np.zeros(2, np.float32)}),
            "holds model.extra, for which the model has no place",
        ),
        (lambda t: t.update({"model.visual.merger.ln_q.weight": t["visual.merger.ln_q.weight"]}), "twice"),
    ],
    ids=["missing", "two missing", "misshapen", "unexpected", "twice"],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change, message: str) -> None:
    tensors = stored(folder)
    change(tensors)
    rewrite(folder, tensors)
    with pytest.raises(WeightsError, match=message):
        load_model(folder)


def _shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def _index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def _garble_header(folder: Path) -> None:
    path = _shard(folder)
    content = bytearray(path.read_bytes())
    content[9:12] = b"\xff{{"
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda f: _shard(f).write_bytes(_shard(f).read_bytes()[:-1]), "is truncated: .* ends at byte"),
        (
            lambda f: _shard(f).write_bytes(_shard(f).read_bytes()[:100]),
            "is truncated or no safetensors file",
        ),
        (lambda f: _shard(f).write_bytes(b""), "is truncated or no safetensors file: 0 bytes"),
        (_garble_header, "damaged safetensors header"),
        (lambda f: _shard(f).unlink(), "is missing; model.safetensors.index.json names it"),
        (
            lambda f: _index(f, lambda m: m.update({KEY: "../other.safetensors"})),
            "must lie in the index's own folder",
        ),
        (lambda f: _index(f, lambda m: m.update({KEY: "/etc/passwd"})), "must lie in the index's own folder"),
        (lambda f: _index(f, lambda m: m.update({"nowhere": _shard(f).name})), "says that nowhere is in"),
        (lambda f: (f / INDEX).write_text('{"weight_map": [1]}'), "is not a weight index"),
        (lambda f: (f / INDEX).write_text("{"), "is not a weight index"),
        (lambda f: [p.unlink() for p in f.glob("model*")], "has neither model.safetensors nor"),
    ],
)
def test_damaged_files_are_refused(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry,message",
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "needs 12 bytes, its range has 8"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "has dtype F8_E4M3"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "needs"),
        ({"dtype": "F32", "shape": [2]}, "damaged"),
    ],
)
def test_headers_that_promise_wrong_things(tmp_path: Path, entry: dict, message: str) -> None:
    text = json.dumps({"w": entry}).encode()
    (tmp_path / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(WeightsError, match=message):
        read_folder(tmp_path)


def test_nothing_is_read_before_it_is_needed(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensor_files.np, "memmap", None)
    assert KEY in read_folder(folder)
