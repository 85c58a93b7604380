"""Qwen2-VL's folders: published names and shapes, weights and files both ways, its processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.models import load_model  # noqa: E402
from mix_core.models.qwen2_vl.processor import load_processor  # noqa: E402
from tests.builders.qwen2_vl import flat_config, write_checkpoint  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402
from tests.parity.batches import IDS  # noqa: E402
from tests.parity.peer import Peers  # noqa: E402
from tests.parity.processors import compare, noise, their_processor  # noqa: E402

PUBLISHED = {
    "2B": dict(
        hidden_size=1536,
        intermediate_size=8960,
        num_attention_heads=12,
        num_key_value_heads=2,
        vocab_size=151936,
    ),
    "7B": dict(
        hidden_size=3584,
        intermediate_size=18944,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
}
TOWER = dict(depth=32, embed_dim=1280, num_heads=16)
PROGRAM = """
import json, sys
import paddle
from mix_core.models.qwen2_vl import FAMILY
from mix_core.models.qwen2_5_vl.weights import slots
config = FAMILY.config_from_dict(json.loads(sys.stdin.read()))
with paddle.LazyGuard():
    model = FAMILY.build(config)
assert not any(parameter._is_initialized() for parameter in model.parameters())
print(json.dumps({name: list(slot.shape) for name, slot in slots(model).items()}))
"""


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_of_the_published_sizes(size: str) -> None:
    from mix_core.models.qwen2_5_vl.weights import published_name

    tied = size == "2B"
    text = PUBLISHED[size] | {"num_hidden_layers": 28, "max_position_embeddings": 32768}
    config = flat_config(IDS, 320, text=text, vision=TOWER, tie_word_embeddings=tied)
    with torch.device("meta"):
        kind = transformers.Qwen2VLForConditionalGeneration
        theirs = kind(transformers.Qwen2VLConfig.from_dict(config))
    expected = {published_name(name): list(p.shape) for name, p in theirs.named_parameters()}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == expected
    assert ("lm_head.weight" in expected) is not tied
    assert expected["visual.patch_embed.proj.weight"] == [1280, 3, 2, 14, 14]


@pytest.mark.parametrize("tied,shard_bytes", [(True, 1 << 30), (False, 60_000)])
def test_transformers_loads_what_we_write(tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    pair = Peers(theirs, tied=tied, config_of=flat_config)
    pair.family.save_weights(pair.ours, ours, max_shard_bytes=shard_bytes)
    pair.family.write_config(pair.ours.config, ours)
    assert (len(list(ours.glob("*.safetensors"))) > 1) is (shard_bytes < 1 << 20)

    kind = transformers.Qwen2VLForConditionalGeneration
    loaded, report = kind.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values()), report
    for (name, found), (_, expected) in zip(
        loaded.named_parameters(), pair.theirs.named_parameters(), strict=True
    ):
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy(), err_msg=name)
    batch = pair.batch([[3, ("image", (1, 6, 8)), 5]])
    with torch.no_grad():
        logits = loaded.eval()(**pair.for_theirs(batch)).logits.numpy()
    assert distance(pair.ours(**batch).numpy(), logits) < 1e-5


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_we_load_what_transformers_writes(tmp_path: Path, layout: str) -> None:
    write_checkpoint(tmp_path, layout=layout, weights=True, max_shard_size="50KB", tie_word_embeddings=False)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = np.random.default_rng(0).integers(0, 200, (2, 12))
    kind = transformers.Qwen2VLForConditionalGeneration
    with torch.no_grad():
        expected = kind.from_pretrained(tmp_path)(input_ids=torch.tensor(ids)).logits.numpy()
    assert distance(load_model(tmp_path)[2](ids).numpy(), expected) < 1e-5


def test_the_processor_and_what_it_saves(tmp_path: Path) -> None:
    """Text, ids, grids and pixels as transformers makes them, of the folder and of the one that we save."""
    folder = write_checkpoint(tmp_path / "published")
    ours = load_processor(folder)
    ours.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((folder / "config.json").read_text())
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        written = json.loads((tmp_path / "saved" / name).read_text())
        assert written["processor_class"] == "Qwen2VLProcessor"
    wide, tall = (Image.fromarray(noise(h, w, 3)) for h, w in ((90, 150), (201, 61)))
    chats = [
        [
            {"role": "system", "content": "Be brief. 请简短"},
            {"role": "user", "content": [{"type": "image", "image": wide}, {"type": "text", "text": "Why?"}]},
        ],
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": tall}, {"type": "text", "text": "And 7?"}],
            },
            {"role": "assistant", "content": "é."},
            {"role": "user", "content": "Sure?"},
        ],
    ]
    for mine, theirs in (
        (ours, their_processor(folder)),
        (load_processor(tmp_path / "saved"), their_processor(tmp_path / "saved")),
    ):
        texts = [mine.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        assert texts == theirs.apply_chat_template(chats, add_generation_prompt=True)
        for side in ("left", "right"):
            wanted = theirs(
                text=texts, images=[wide, tall], padding=True, padding_side=side, return_tensors="np"
            )
            compare(mine(texts, [wide, tall], padding_side=side), dict(wanted))


def test_a_sample_with_a_video(tmp_path: Path) -> None:
    """A video's arrays are Qwen2.5-VL's but for the seconds, which this model is not told."""
    processor = load_processor(write_checkpoint(tmp_path))
    frames = np.stack([noise(56, 84, 3, seed) for seed in range(6)])
    messages = [
        {
            "role": "user",
            "content": [{"type": "video", "video": list(frames), "fps": 2.0}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "Yes."},
    ]
    sample = processor.encode(messages, max_length=None)
    assert "second_per_grid_ts" not in sample
    t, h, w = sample["video_grid_thw"][0]
    assert (t, h, w) == (3, 4, 6)
    pads = np.flatnonzero(sample["input_ids"] == processor.vision.video_token_id)
    time = sample["position_ids"][0, pads] - sample["position_ids"][0, pads[0]]
    np.testing.assert_array_equal(time, np.repeat(np.arange(t), h * w // 4))
    batch = processor.collate([sample])
    # patch 0 holds the top left 14 x 14 pixels of frames 0 and 1: colours, frames, rows, columns
    mean, std = (np.array(processor.images.__dict__[key], np.float32) for key in ("image_mean", "image_std"))
    expected = (frames[:2, :14, :14] / np.float32(255) - mean) / std
    found = batch["pixel_values_videos"][0].reshape(3, 2, 14, 14)
    np.testing.assert_allclose(found, expected.transpose(3, 0, 1, 2), atol=1e-6)
