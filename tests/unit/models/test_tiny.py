"""Each family's tiny model takes its batch: it learns from the labels and answers the prompts."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.inference.generation import generate
from mix_core.models.registry import families

TINY = {name: family for name, family in families().items() if family.tiny is not None}


def test_our_families_have_one():
    assert set(TINY) >= {"internvl2", "llava", "qwen2_5_vl"}


@pytest.mark.parametrize("name", sorted(TINY))
def test_it_learns_and_answers(name):
    family, tiny = TINY[name], TINY[name].tiny()
    model = family.build(family.config_from_dict(tiny.config))
    family.init_weights(model, 0)
    loss, count = model.loss(tiny.batch)
    loss.backward()
    labels = tiny.batch["labels"]
    assert count == (labels[:, 1:] != -100).sum() > 0
    per_token = float(loss) / count
    assert per_token == pytest.approx(np.log(model.head.weight.shape[0]), rel=0.1), "an untrained model's"
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    prompt = {key: value for key, value in tiny.batch.items() if key != "labels"}
    answers = generate(model, prompt, max_new_tokens=2)
    assert [len(answer) for answer in answers] == [2] * len(labels)
