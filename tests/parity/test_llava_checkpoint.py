"""LLaVA's folders go both ways: what transformers writes we read and the reverse; the authors' are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from mix_core.errors import WeightsError  # noqa: E402
from mix_core.models import load_model  # noqa: E402
from mix_core.models.llava.names import our_name  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402
from tests.parity.llava_peer import Peers  # noqa: E402

ROWS = [[3, (30, 40), 5], [2, (5, 90), 3]]


@pytest.mark.parametrize("anyres", [False, True], ids=["1.5", "1.6"])
@pytest.mark.parametrize("tied,shard_bytes", [(False, 60_000), (True, 1 << 30)])
def test_transformers_loads_what_we_write(tmp_path: Path, anyres: bool, tied: bool, shard_bytes: int) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    pair = Peers(theirs, anyres=anyres, tie_word_embeddings=tied)
    pair.family.save_weights(pair.ours, ours, max_shard_bytes=shard_bytes)
    pair.family.write_config(pair.ours_config, ours)
    assert (len(list(ours.glob("*.safetensors"))) > 1) is (shard_bytes < 1 << 20)

    loaded, report = type(pair.theirs).from_pretrained(ours, output_loading_info=True)
    assert not any(report.values()), report
    for (name, parameter), (_, expected) in zip(
        loaded.named_parameters(), pair.theirs.named_parameters(), strict=True
    ):
        np.testing.assert_array_equal(parameter.detach().numpy(), expected.detach().numpy(), err_msg=name)
    batch = pair.batch(ROWS)
    with torch.no_grad():
        logits = loaded.eval()(**pair.for_theirs(batch)).logits.numpy()
    tokens = batch["attention_mask"] == 1
    assert distance(pair.ours(**batch).numpy()[tokens], logits[tokens]) < 1e-5
    assert load_model(ours)[1] == pair.ours_config


def test_names_that_transformers_has_in_memory_are_read(tmp_path: Path) -> None:
    pair = Peers(tmp_path, anyres=True)
    before = pair.ours(**pair.batch(ROWS)).numpy()
    state = {name: tensor.contiguous() for name, tensor in pair.theirs.state_dict().items()}
    assert "model.language_model.norm.weight" in state and "model.image_newline" in state
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(load_model(tmp_path)[2](**pair.batch(ROWS)).numpy(), before)


AUTHORS: dict[str, dict[str, Any]] = {
    "1.5": {"image_aspect_ratio": "pad"},
    "1.6": {
        "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": [[width, height] for height, width in ((28, 56), (56, 28), (56, 56))],
    },
}


def write_authors_folder(folder: Path, pair: Peers, kind: str, *, tower: str, with_tower: bool) -> None:
    """The peers' weights under the authors' names, without the rows of added tokens."""
    text, stored = pair.config["text_config"], 300
    config = {
        **text,
        **AUTHORS[kind],
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "vocab_size": stored,
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "tie_word_embeddings": False,
    }
    weights = {}
    for name, tensor in pair.theirs.state_dict().items():
        name = our_name(name)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = tensor[:stored]
        if name.startswith("vision_tower."):
            if not with_tower:
                continue
            name = f"model.vision_tower.{name}"
        name = name.replace("multi_modal_projector.linear_1.", "model.mm_projector.0.")
        name = name.replace("multi_modal_projector.linear_2.", "model.mm_projector.2.")
        weights["model.image_newline" if name == "image_newline" else name] = tensor.contiguous()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("with_tower", [True, False], ids=["own tower", "named tower"])
@pytest.mark.parametrize("kind", AUTHORS)
def test_the_authors_folder_gives_the_same_logits(tmp_path: Path, kind: str, with_tower: bool) -> None:
    hf = tmp_path / "hf"
    pinpoints = {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]} if kind == "1.6" else {}
    pair = Peers(hf, anyres=kind == "1.6", **pinpoints)
    pair.theirs.model.vision_tower.save_pretrained(tmp_path / "clip")
    clip = load_file(tmp_path / "clip" / "model.safetensors")
    # the published tower is one half of CLIP
    clip |= {"logit_scale": torch.zeros(()), "text_model.final_layer_norm.weight": torch.ones(4)}
    clip["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(clip, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "authors"
    write_authors_folder(folder, pair, kind, tower=str(tmp_path / "clip"), with_tower=with_tower)
    _, config, model = load_model(folder)
    assert (config.image_token_id, config.text.vocab_size) == (300, 320)
    batch = pair.batch(ROWS, side="right")
    ours, expected = model(**batch).numpy(), pair.ours(**batch).numpy()
    tokens = batch["attention_mask"] == 1
    np.testing.assert_array_equal(ours[tokens][:, :300], expected[tokens][:, :300])
    head = model.head.weight.numpy()
    np.testing.assert_allclose(head[300:], np.repeat(head[:300].mean(0, keepdims=True), 20, 0), rtol=1e-6)


def test_a_tower_without_weights_is_named(tmp_path: Path) -> None:
    pair = Peers(tmp_path / "hf", anyres=False)
    pair.theirs.model.vision_tower.config.save_pretrained(tmp_path / "clip")
    write_authors_folder(tmp_path / "a", pair, "1.5", tower=str(tmp_path / "clip"), with_tower=False)
    with pytest.raises(WeightsError, match=r"has no vision tower and names .*clip, which gives none"):
        load_model(tmp_path / "a")
