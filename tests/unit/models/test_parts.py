"""Parts of parameters: where they stand in the whole, and what they take of files and first values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mix_core.device as device
from mix_core.models.common.parts import row_part, whole_box


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    parts=st.integers(1, 5),
    axis=st.integers(0, 2),
)
def test_parts_cover_the_whole_once(shape, parts, axis):
    axis %= len(shape)
    whole = np.zeros(shape, int)
    for index in range(parts):
        box = row_part(axis, shape, index, parts)
        whole[box.slices] += 1
        assert box.common(whole_box(shape)) == (box if box.size else None)
        assert box.shape[axis] in (shape[axis] // parts, -(-shape[axis] // parts))
    assert whole.sum() == math.prod(shape) and (whole == 1).all()


@pytest.fixture
def model():
    device.activate("cpu")
    from paddle import nn

    from mix_core.models.common.layers import Embedding, Linear

    class Small(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.up = Linear(6, 8, bias=True)
            self.words = Embedding(7, 6)

    return Small


def divided(small, index):
    from mix_core.models.parallel.across import Across
    from mix_core.models.parallel.layers import divide

    made, across = small(), Across(index, 2, None)
    divide(made.up, "weight", 1, across)
    divide(made.up, "bias", 0, across)
    divide(made.words, "weight", 0, across)
    return made


def test_a_part_takes_its_own_of_files_and_of_first_values(model, tmp_path):
    from mix_core.models.common.parts import held_box, whole_shape
    from mix_core.models.common.weights import fill_random, load_folder, save_folder, slots_of

    whole = model()
    fill_random(whole, 3, 0.1)
    whole.up.bias.set_value(np.arange(8, dtype=np.float32))
    save_folder(slots_of(whole), tmp_path, 1 << 20)
    wanted = {name: one.numpy() for name, one in whole.named_parameters()}
    for index, rows in ((0, 3), (1, 4)):
        from_file, from_seed = divided(model, index), divided(model, index)
        load_folder(slots_of(from_file), tmp_path)
        fill_random(from_seed, 3, 0.1)
        assert from_file.words.weight.shape == [rows, 6], "rows need not divide"
        for name, part in from_file.named_parameters():
            assert whole_shape(part) == wanted[name].shape
            np.testing.assert_array_equal(part.numpy(), wanted[name][held_box(part).slices])
        for part, other in zip(from_seed.parameters(), from_file.parameters()):
            if part.ndim == 2:
                np.testing.assert_array_equal(part.numpy(), other.numpy())
        assert slots_of(from_file)["up.weight"].shape == (8, 6), "as published"


def test_a_model_is_divided_before_it_has_memory(model):
    """As of tensor parallel: values of the whole are never there."""
    import paddle

    with paddle.LazyGuard():
        made = divided(model, 1)
    assert made.up.weight.shape == [6, 4] and not made.up.weight._is_initialized()
