"""Folders: the published names and shapes at the published sizes, and weights that go both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.errors import WeightsError
from mix_core.models import load_model
from mix_core.models.common.tensor_files import read_folder
from tests.builders.internvl2_checkpoints import config_of, published_shapes, published_weights, write_folder

TOWER = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=24,
    image_size=448,
    patch_size=14,
)
PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    # decoder, its sizes, all parameters
    "1B": (
        "qwen2",
        dict(
            hidden_size=896,
            intermediate_size=4864,
            num_attention_heads=14,
            num_hidden_layers=24,
            num_key_value_heads=2,
            vocab_size=151655,
        ),
        938_158_976,
    ),
    "2B": (
        "internlm2",
        dict(
            hidden_size=2048,
            intermediate_size=8192,
            num_attention_heads=16,
            num_hidden_layers=24,
            num_key_value_heads=8,
            vocab_size=92553,
        ),
        2_205_754_368,
    ),
    "8B": (
        "internlm2",
        dict(
            hidden_size=4096,
            intermediate_size=14336,
            num_attention_heads=32,
            num_hidden_layers=32,
            num_key_value_heads=8,
            vocab_size=92553,
        ),
        8_075_365_376,
    ),
}

PROGRAM = """
import json, sys
import paddle
from mix_core.models.internvl2 import FAMILY
from mix_core.models.internvl2.weights import slots
config = FAMILY.config_from_dict(json.loads(sys.stdin.read()))
with paddle.LazyGuard():
    model = FAMILY.build(config)
assert not any(parameter._is_initialized() for parameter in model.parameters())
print(json.dumps({name: list(slot.shape) for name, slot in slots(model).items()}))
"""


@pytest.mark.parametrize("size", ["1B", "2B", pytest.param("8B", marks=pytest.mark.slow)])
def test_names_and_shapes(size: str) -> None:
    decoder, text, parameters = PUBLISHED[size]
    config = config_of(decoder, text=text, vision=TOWER, force_image_size=448)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = {name: tuple(shape) for name, shape in json.loads(ran.stdout.splitlines()[-1]).items()}
    assert found == published_shapes(config)
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters
    if decoder == "internlm2":
        heads = (text["num_attention_heads"] + 2 * text["num_key_value_heads"]) * 128
        assert found["language_model.model.layers.0.attention.wqkv.weight"] == (heads, text["hidden_size"])


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_of_transformers_parts(size: str) -> None:
    """Its tower and decoders, without memory, ask for the same shapes once the published names are mapped."""
    torch = pytest.importorskip("torch", reason="live parity needs torch")
    pytest.importorskip("transformers", reason="live parity needs transformers")
    from tests.parity.internvl2_peer import _decoder, _tower, decoder_map, vision_map

    decoder, text, _ = PUBLISHED[size]
    config = config_of(decoder, text=text, vision=TOWER, force_image_size=448)
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in published_shapes(config).items()}
        parts = (
            (_tower(config["vision_config"]), vision_map(published, TOWER["num_hidden_layers"])),
            (_decoder(config["llm_config"]), decoder_map(published, config["llm_config"])),
        )
    for theirs, mapped in parts:
        expected = {name: p.shape for name, p in theirs.named_parameters()}
        assert {name: value.shape for name, value in mapped.items()} == expected


@pytest.mark.parametrize("decoder", ["internlm2", "qwen2"])
@pytest.mark.parametrize("shard_bytes", [60_000, 1 << 30])
def test_weights_are_written_as_they_were_read(tmp_path: Path, decoder: str, shard_bytes: int) -> None:
    family, config, model = load_model(write_folder(tmp_path / "read", decoder, weights=True))
    written = tmp_path / "written"
    written.mkdir()
    family.save_weights(model, written, max_shard_bytes=shard_bytes)
    family.write_config(config, written)
    assert (len(list(written.glob("*.safetensors"))) > 1) is (shard_bytes < 1 << 20)
    stored = read_folder(written)
    expected = published_weights(config_of(decoder))
    assert set(stored) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(stored[name].read(), value, err_msg=name)
    ids = np.arange(12)[None]
    np.testing.assert_array_equal(load_model(written)[2](ids).numpy(), model(ids).numpy())


def test_weights_in_bfloat16_go_both_ways(tmp_path: Path) -> None:
    family, _, model = load_model(write_folder(tmp_path, weights=True))
    model.to(dtype="bfloat16")
    (tmp_path / "narrow").mkdir()
    family.save_weights(model, tmp_path / "narrow")
    (tmp_path / "narrow" / "config.json").write_text((tmp_path / "config.json").read_text())
    name = "language_model.model.layers.0.attention.wqkv.weight"
    stored = read_folder(tmp_path / "narrow")[name]
    exact = published_weights(config_of())[name]
    assert stored.dtype == "BF16"
    np.testing.assert_allclose(stored.read_float32(), exact, rtol=2**-8, atol=1e-9)
    _, _, again = load_model(tmp_path / "narrow")
    assert family.published_name("language_model.decoder.layers.0.self_attn.v_proj.weight") == name
    for (ours, p), (_, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.astype("float32").numpy(), q.numpy(), err_msg=ours)


def test_a_matrix_of_another_layout_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, weights=True)
    config = config_of(text={"num_key_value_heads": 4})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"wqkv.weight has shape \(128, 64\) .* asks for \(192, 64\)"):
        load_model(tmp_path)
