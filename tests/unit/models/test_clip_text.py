"""CLIP's text encoder: causal order, where rows are pooled, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from mix_core.errors import BadInputError, DataError, WeightsError
from mix_core.models.clip_text.config import config_from_dict, config_to_dict
from mix_core.models.clip_text.weights import load_clip_text, save_clip_text

END = 49
CONFIG: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "projection_dim": 6,
    "eos_token_id": 2,
}
PROJECTED = {**CONFIG, "architectures": ["CLIPTextModelWithProjection"]}
IDS = np.array([[48, 5, 6, END, END, END], [48, 7, 8, 9, END, 0]])


def load(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return load_clip_text(folder, random_init=True)


def test_what_follows_a_token_does_not_change_it_and_padding_does_not_change_the_pooled(
    tmp_path: Path,
) -> None:
    model = load(tmp_path, PROJECTED)
    encoded = model(IDS)
    assert [state.shape for state in encoded.hidden_states] == [[2, 6, 16]] * 3
    other = IDS.copy()
    other[:, 5] = 3
    changed = model(other)
    np.testing.assert_allclose(changed.last[:, :5].numpy(), encoded.last[:, :5].numpy(), atol=1e-6)
    np.testing.assert_allclose(changed.pooled.numpy(), encoded.pooled.numpy(), atol=1e-6)
    assert np.abs(changed.last[:, 5].numpy() - encoded.last[:, 5].numpy()).max() > 1e-3
    assert encoded.pooled.shape == [2, 6]


def test_rows_are_pooled_at_their_first_end_token(tmp_path: Path) -> None:
    legacy = load(tmp_path, CONFIG)
    last, pooled = legacy(IDS).last.numpy(), legacy(IDS).pooled.numpy()
    np.testing.assert_array_equal(pooled, np.stack([last[0, 3], last[1, 4]]))
    own = load(tmp_path, {**CONFIG, "eos_token_id": 9})
    ids = IDS.copy()
    ids[0, 2] = 9
    encoded = own(ids)
    np.testing.assert_array_equal(encoded.pooled.numpy(), encoded.last.numpy()[[0, 1], [2, 3]])
    with pytest.raises(DataError, match="row 0 has no end token 9"):
        own(IDS)


@pytest.mark.parametrize(
    "ids,says",
    [
        (np.zeros((1, 10), np.int64), r"shape \(1, 10\), expected \(rows, 1 to 9\)"),
        (np.zeros(4, np.int64), r"shape \(4,\), expected \(rows, 1 to 9\)"),
        (
            np.full((1, 4), 50),
            "go from 50 to 50, expected below 50; do tokenizer and text encoder belong together",
        ),
    ],
)
def test_ids_that_have_no_place(tmp_path: Path, ids: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(tmp_path, CONFIG)(ids)


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"model_type": "clip"}, "model_type 'clip', expected 'clip_text_model'"),
        ({"architectures": ["CLIPModel"]}, r"architectures \['CLIPModel'\], expected CLIPTextModel or"),
        ({"hidden_size": 15}, "hidden_size = 15, which must be a multiple of num_attention_heads = 2"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0, expected a whole number of 1 or more"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'; built are quick_gelu, gelu"),
        ({"use_attention_mask": True}, "use_attention_mask = True, which is not built"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        config_from_dict({**CONFIG, **changes})


def test_folders_keep_configuration_dtype_and_values(tmp_path: Path) -> None:
    model = load(tmp_path, PROJECTED)
    config = config_from_dict(config_to_dict(model.config))
    assert config == model.config and config.projected
    model.to(dtype="bfloat16")
    save_clip_text(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = load_clip_text(tmp_path)
    for (name, found), (_, expected) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.astype("float32").numpy(), err_msg=name)
        assert found.dtype == paddle.float32
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match=r"holds text_projection.weight, for which the model has no place"):
        load_clip_text(tmp_path)
