"""Copies in host memory: what was there when they were taken, in one piece of memory, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def paddle():
    import mix_core.device as device

    device.activate("cpu")
    import paddle

    return paddle


def test_a_copy_stays_what_it_was_and_the_next_one_takes_the_same_memory(paddle):
    from mix_core.training.host_copy import HostCopy

    learns, fixed = paddle.arange(12, dtype="float32").reshape([3, 4]), paddle.ones([5])
    copy = HostCopy([learns, fixed], changing=[learns])
    assert copy.take() == 4 * 17
    places = [copy.read(one).ctypes.data for one in (learns, fixed)]
    assert abs(places[0] - places[1]) < copy.size_bytes == 64 + 64
    learns.scale_(2.0)
    np.testing.assert_array_equal(copy.read(learns), np.arange(12, dtype=np.float32).reshape(3, 4))
    assert copy.take() == 4 * 12, "what does not learn is copied once"
    np.testing.assert_array_equal(copy.read(learns), learns.numpy())
    np.testing.assert_array_equal(copy.read(fixed), np.ones(5, np.float32))
    assert [copy.read(one).ctypes.data for one in (learns, fixed)] == places
    with pytest.raises(KeyError, match=r"of shape \[3, 4\] is not among"):
        copy.read(learns.clone())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "int64", "int8", "float64"])
def test_every_dtype_keeps_its_bits(paddle, dtype):
    from mix_core.training.host_copy import HostCopy

    tensor = (paddle.arange(-7, 8, dtype="float32") * 1.3).astype(dtype)
    copy = HostCopy([tensor])
    copy.take()
    np.testing.assert_array_equal(copy.read(tensor), tensor.numpy())
    assert copy.read(tensor).dtype == tensor.numpy().dtype


def test_large_tensors_are_copied_in_parts_and_what_has_no_rows_too(paddle):
    from mix_core.training import host_copy

    count = 2 * host_copy._CHUNK_BYTES // 4 + 7
    large, empty = paddle.arange(count, dtype="float32"), paddle.zeros([0, 3])
    others = [paddle.full([index + 1], index, dtype="float32") for index in range(50)]
    copy = host_copy.HostCopy([large, empty, *others])
    assert copy.take() == 4 * (count + sum(range(1, 51)))
    np.testing.assert_array_equal(copy.read(large), np.arange(count, dtype=np.float32))
    for index, one in enumerate(others):
        np.testing.assert_array_equal(copy.read(one), np.full(index + 1, index, np.float32))


def test_a_view_that_is_not_contiguous_is_copied_as_it_reads(paddle):
    from mix_core.training.host_copy import HostCopy

    view = paddle.arange(12, dtype="float32").reshape([3, 4]).t()
    copy = HostCopy([view])
    copy.take()
    np.testing.assert_array_equal(copy.read(view), view.numpy())
