"""Families are found through entry points; a broken one does no harm to the others."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from mix_core.errors import BadInputError
from mix_core.models import registry

CONFIG = {
    "model_type": "plain",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def look_again():
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


def _folder(path: Path, **changes: object) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    return path


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl"])
def test_our_own_families_are_found_like_any_other(name: str) -> None:
    assert registry.get_family(name).model_types == (name,)


def test_a_package_adds_a_family_as_one_folder(use_plugins, tmp_path: Path) -> None:
    ours = set(registry.families())
    registry._installed.cache_clear()
    use_plugins("mix_model_plain")
    assert set(registry.families()) == ours | {"plain"}
    family, config, model = registry.load_model(_folder(tmp_path), random_init=True, seed=3)
    ids = np.array([[3, 1, 4, 1, 5], [9, 9, 2, 6, 5]])
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    logits = model(ids, mask).numpy()
    assert logits.shape == (2, 5, 50)

    cache = model.new_cache(2, 6)
    np.testing.assert_allclose(
        model.prefill(cache, dict(input_ids=ids, attention_mask=mask)), logits[:, -1], atol=1e-6
    )
    after = model(np.hstack([ids, [[7], [8]]]), np.hstack([mask, [[1], [1]]])).numpy()[:, -1]
    np.testing.assert_allclose(model.decode(cache, [7, 8]).numpy(), after, atol=1e-6)
    loss, count = model.loss(dict(input_ids=ids, attention_mask=mask, labels=np.where(mask, ids, -100)))
    loss.backward()
    assert count == 6 and all(parameter.grad is not None for parameter in model.parameters())

    saved = tmp_path / "saved"
    saved.mkdir()
    family.save_weights(model, saved)
    family.write_config(config, saved)
    _, _, again = registry.load_model(saved)
    np.testing.assert_array_equal(again(ids, mask).numpy(), logits)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(use_plugins, tmp_path: Path) -> None:
    use_plugins("mix_model_plain")
    folder = _folder(tmp_path)
    first, same, other = (registry.load_model(folder, random_init=True, seed=seed)[2] for seed in (1, 1, 2))
    for name, parameter in first.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), dict(same.named_parameters())[name].numpy())
        if parameter.ndim > 1:
            assert (parameter.numpy() != dict(other.named_parameters())[name].numpy()).all()
            assert abs(parameter.numpy().std() / 0.1 - 1) < 0.2


OWN = EntryPoint("qwen2_5_vl", "mix_core.models.qwen2_5_vl:FAMILY", registry.GROUP)


def test_a_broken_package_is_named_where_its_family_is_missed(monkeypatch) -> None:
    missing = EntryPoint("plain", "no_such_module:FAMILY", registry.GROUP)
    wrong = EntryPoint("odd", "json:dumps", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [missing, wrong, OWN])
    assert set(registry.families()) == {"qwen2_5_vl"}
    with pytest.raises(
        BadInputError, match=r"plain could not be loaded \(ModuleNotFoundError: .*not a ModelFam"
    ):
        registry.get_family("plain")


def test_two_packages_for_one_family(monkeypatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [OWN, OWN])
    with pytest.raises(BadInputError, match="two packages give the model family 'qwen2_5_vl'"):
        registry.families()


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "has no config.json"),
        ("{", "is not valid JSON"),
        ("[]", "has no model_type"),
        ('{"model_type": "gpt9"}', "no model family reads model_type 'gpt9'; installed: "),
    ],
)
def test_folders_that_hold_no_model(text, message, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInputError, match=message):
        registry.family_of_folder(tmp_path)
