"""Names and shapes of the published 7B size without memory, and folders both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from mix_core.errors import WeightsError  # noqa: E402
from mix_core.models import load_model  # noqa: E402
from mix_core.models.qwen_vl.names import published_name  # noqa: E402
from tests.builders.qwen_vl import tiny_config  # noqa: E402
from tests.parity.qwen_vl_peer import Peers, published_shapes, sincos  # noqa: E402

PROGRAM = """
import json, sys
import paddle
from mix_core.models.qwen_vl import FAMILY
from mix_core.models.qwen_vl.weights import slots
config = FAMILY.config_from_dict(json.loads(sys.stdin.read()))
with paddle.LazyGuard():
    model = FAMILY.build(config)
assert not any(parameter._is_initialized() for parameter in model.parameters())
print(json.dumps({name: list(slot.shape) for name, slot in slots(model).items()}))
"""
VISUAL = dict(
    heads=16, image_size=448, layers=48, mlp_ratio=4.9231, output_dim=4096, patch_size=14, width=1664
)


def seven_billion() -> dict:
    config = tiny_config(
        151857,
        hidden_size=4096,
        intermediate_size=22016,
        num_attention_heads=32,
        num_hidden_layers=32,
        vocab_size=151936,
    )
    config["visual"] = {**VISUAL, "image_start_id": 151857}
    return config


def test_names_and_shapes_of_the_published_size() -> None:
    config = seven_billion()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = {name: tuple(shape) for name, shape in json.loads(ran.stdout.splitlines()[-1]).items()}
    assert found == published_shapes(config)
    # as the publisher's index of weights has them
    assert len(found) == 3 + 32 * 8 + 48 * 12 + 18
    assert found["transformer.visual.transformer.resblocks.47.mlp.c_fc.weight"] == (8192, 1664)
    assert sum(np.prod(shape, dtype=np.int64) for shape in found.values()) == pytest.approx(9.66e9, rel=0.01)


def test_the_fixed_positions_are_the_published_ones() -> None:
    from mix_core.models.qwen_vl.geometry import sincos_table

    np.testing.assert_allclose(sincos_table(16, 256), sincos(16, 256).numpy(), atol=2e-6)


@pytest.mark.parametrize("shard_bytes", [200_000, 1 << 30])
def test_folders_both_ways(tmp_path: Path, shard_bytes: int) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    pair = Peers(tmp_path / "theirs")
    pair.family.save_weights(pair.ours, tmp_path / "ours", max_shard_bytes=shard_bytes)
    pair.family.write_config(pair.ours.config, tmp_path / "ours")
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert (len(files) > 1) is (shard_bytes < 1 << 20)
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == published_shapes(pair.config)
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor.numpy(), pair.weights[name].detach().numpy(), err_msg=name)
    assert json.loads((tmp_path / "ours" / "config.json").read_text()) == pair.config
    batch = pair.batch([[3, 5]])
    again = load_model(tmp_path / "ours")[2]
    np.testing.assert_array_equal(again(**batch).numpy(), pair.ours(**batch).numpy())


def test_bfloat16_weights_come_and_go_to_the_bit(tmp_path: Path) -> None:
    pair = Peers(tmp_path)
    stored = {name: weight.detach().bfloat16().contiguous() for name, weight in pair.weights.items()}
    save_file(stored, tmp_path / "model.safetensors")
    model = load_model(tmp_path)[2]
    model.to(dtype="bfloat16")
    (tmp_path / "again").mkdir()
    pair.family.save_weights(model, tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert all(torch.equal(written[name], stored[name]) for name in stored)


def test_every_parameter_has_a_published_name(tmp_path: Path) -> None:
    pair = Peers(tmp_path)
    names = {published_name(name) for name, _ in pair.ours.named_parameters()}
    assert names == set(published_shapes(pair.config)) - {"transformer.visual.attn_pool.pos_embed"}


@pytest.mark.parametrize(
    "name,change,message",
    [
        (
            "transformer.h.1.attn.c_attn.bias",
            None,
            r"lacks the weight transformer\.h\.1\.attn\.c_attn\.bias;",
        ),
        (
            "transformer.h.0.attn.c_attn.weight",
            256,
            r"c_attn\.weight has shape \(256, 128\) .* asks for \(384,",
        ),
        (
            "transformer.h.0.attn.c_attn.qweight",
            8,
            r"holds transformer\.h\.0\.attn\.c_attn\.qweight, for which",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, name: str, change: int | None, message: str) -> None:
    pair = Peers(tmp_path)
    stored = {key: weight.detach().contiguous() for key, weight in pair.weights.items()}
    if change is None:
        del stored[name]
    else:
        stored[name] = torch.zeros(change, 128)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path)
