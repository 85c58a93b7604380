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


def test_adapters_of_divided_maps_are_parts_of_the_whole_s(model):
    """Of a feed-forward block: what two ranks give adds up, their gradients are parts of the whole's or add
    up to it, and each drops what one device drops."""
    import paddle
    from paddle import nn

    from mix_core.models.common.layers import GatedMLP
    from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, linear_maps
    from mix_core.models.common.parts import held_box, is_part, is_shared
    from mix_core.models.common.random import SampleRandom
    from mix_core.models.common.tensor_plan import Division
    from mix_core.models.parallel.across import Across
    from mix_core.models.parallel.layers import DividedMLP

    class Unsummed(Across):
        def spread(self, x):
            return x

        def summed(self, x):
            return x

    plan = Division("mlp", ("gate_proj", "up_proj"), ("down_proj",))
    x_TD = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)

    def adapted(index=None):
        block = nn.Layer()
        block.mlp, block.random = GatedMLP(6, 8, bias=False), SampleRandom()
        fill = np.random.default_rng(0)
        for one in block.mlp.parameters():
            one.set_value(fill.normal(size=one.shape).astype(np.float32))
            one.stop_gradient = True
        if index is not None:
            block.mlp = DividedMLP(block.mlp, plan, Unsummed(index, 2, None))
        maps = linear_maps(block)
        add_adapter(block, maps, "a", LoRASettings(rank=3, alpha=6.0, dropout=0.4))
        init_adapter(maps, "a", 7)
        for number, one in enumerate(maps):
            up = one.layer.adapters.used.up
            values = np.random.default_rng(number).normal(size=(3, one.shape[1])).astype(np.float32)
            up.set_value(values[held_box(up).slices])
        block.train()
        block.random.start(seed=1, step=1, samples=np.arange(1))
        out_TD = block.mlp(paddle.to_tensor(x_TD))
        out_TD.sum().backward()
        return out_TD.numpy(), {n: one for n, one in block.named_parameters() if ".adapters." in n}

    wanted_TD, whole = adapted()
    first, second = adapted(0), adapted(1)
    np.testing.assert_allclose(first[0] + second[0], wanted_TD, rtol=1e-5, atol=1e-5)
    for name, one in whole.items():
        found = np.zeros(one.shape, np.float32)
        for part in (parameters[name] for _, parameters in (first, second)):
            assert is_part(part) != is_shared(part), name
            slices = held_box(part).slices
            np.testing.assert_array_equal(part.numpy(), one.numpy()[slices], err_msg=name)
            found[slices] += part.grad.numpy()
        np.testing.assert_allclose(found, one.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
