"""Qwen2.5-VL against what transformers computed once: needs neither torch nor transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.models import get_family, load_model
from mix_core.models.common.tensor_files import Outgoing, write_folder
from mix_core.models.qwen2_5_vl.weights import slots
from tests.goldens.make_qwen2_5_vl import FILE, NEW_TOKENS, ROWS, SIZES, config_of, weight
from tests.parity.batches import make_batch


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=SIZES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(size, model with the golden's weights, batch)."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = config_of(request.param)
    (folder / "config.json").write_text(json.dumps(config))
    family = get_family("qwen2_5_vl")
    shapes = {name: slot.shape for name, slot in slots(family.build(family.config_from_dict(config))).items()}
    weights = [
        Outgoing(n, "F32", shape, lambda n=n, shape=shape: weight(n, shape)) for n, shape in shapes.items()
    ]
    write_folder(folder, weights, 1 << 30)
    return request.param, load_model(folder)[2], make_batch(config, ROWS)


def test_logits_loss_and_gradients(case, golden) -> None:
    size, model, batch = case
    tokens = batch["attention_mask"] == 1
    expected = golden[f"{size}.logits"]
    assert np.linalg.norm(model(**batch).numpy()[tokens] - expected) < 1e-5 * np.linalg.norm(expected)
    loss, count = model.loss(batch | {"labels": np.where(tokens, batch["input_ids"], -100)})
    assert float(loss) / count == pytest.approx(float(golden[f"{size}.loss"]), rel=1e-6)
    (loss / count).backward()
    norms = {name: float(np.linalg.norm(p.grad.numpy())) for name, p in model.named_parameters()}
    assert norms == pytest.approx(
        {name: float(golden[f"{size}.gradient.{name}"]) for name in norms}, rel=1e-4
    )


def test_greedy_tokens(case, golden) -> None:
    size, model, batch = case
    rows, length = batch["input_ids"].shape
    cache = model.new_cache(rows, length + NEW_TOKENS)
    logits = model.prefill(cache, batch)
    for step in range(NEW_TOKENS):
        ids = logits.numpy().argmax(-1)
        np.testing.assert_array_equal(ids, golden[f"{size}.tokens"][:, step])
        if step < NEW_TOKENS - 1:
            logits = model.decode(cache, ids)
