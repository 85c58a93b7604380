"""attention, attention_packed and attention_decode against the textbook in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from mix_core import ops
from mix_core.ops import attend_plan, attend_reference, philox
from tests.unit.ops import oracle


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    """Blocks and limits so small that short sequences take every path that long ones take."""
    attend_plan.make_plan.cache_clear()
    monkeypatch.setattr(attend_plan, "BLOCK", 3)
    monkeypatch.setattr(attend_plan, "MAX_SCORES", 40)
    monkeypatch.setattr(attend_plan, "MAX_WIDE_BIAS", 30)
    monkeypatch.setattr(attend_reference, "MAX_KEPT", 10)
    yield
    attend_plan.make_plan.cache_clear()


def rows(formula, *arrays, **options):
    """Apply a formula for one row to each row of a batch."""
    return np.stack([formula(*row, **options) for row in zip(*arrays)])


@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 2), (7, 1)])
@pytest.mark.parametrize("options", [{"causal": False}, {"causal": True}, {"causal": True, "window": 3}])
def test_dense(heads, kv_heads, options) -> None:
    B, S, H = 2, 6, 4
    inputs = [
        oracle.draw(0, B, S, heads, H),
        oracle.draw(1, B, S, kv_heads, H),
        oracle.draw(2, B, S, kv_heads, H),
    ]
    oracle.check(
        lambda q, k, v: ops.attention(q, k, v, **options),
        lambda q, k, v: rows(oracle.attention, q, k, v, **options),
        inputs,
    )


@pytest.mark.parametrize(
    "options",
    [{"causal": False}, {"causal": True}, {"causal": True, "window": 4}, {"causal": False, "window": 2}],
)
def test_dense_in_blocks(options, small_blocks) -> None:
    B, S, N, K, H = 2, 8, 4, 2, 4
    inputs = [oracle.draw(0, B, S, N, H), oracle.draw(1, B, S, K, H), oracle.draw(2, B, S, K, H)]
    oracle.check(
        lambda q, k, v: ops.attention(q, k, v, **options),
        lambda q, k, v: rows(oracle.attention, q, k, v, **options),
        inputs,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries,keys", [(2, 5), (1, 7)])
def test_fewer_queries_than_keys_are_aligned_at_the_end(causal, queries, keys) -> None:
    inputs = [oracle.draw(0, 2, queries, 2, 4), oracle.draw(1, 2, keys, 2, 4), oracle.draw(2, 2, keys, 2, 4)]
    oracle.check(
        lambda q, k, v: ops.attention(q, k, v, causal=causal, scale=0.3),
        lambda q, k, v: rows(oracle.attention, q, k, v, causal=causal, scale=0.3),
        inputs,
    )


def test_mask() -> None:
    B, S, N, K, H = 2, 5, 4, 2, 4
    mask = np.random.default_rng(3).random((B, 1, S, S)) < 0.6
    mask |= np.eye(S, dtype=bool)
    inputs = [oracle.draw(0, B, S, N, H), oracle.draw(1, B, S, K, H), oracle.draw(2, B, S, K, H)]
    oracle.check(
        lambda q, k, v: ops.attention(q, k, v, causal=True, mask_BNSS=paddle.to_tensor(mask)),
        lambda q, k, v: np.stack(
            [
                oracle.attention(q[b], k[b], v[b], causal=True, mask_NSM=np.repeat(mask[b], N, 0))
                for b in range(B)
            ]
        ),
        inputs,
    )


def test_a_query_that_may_see_nothing_stays_finite() -> None:
    q, k, v = (
        paddle.to_tensor(oracle.draw(i, 1, 3, 2, 4).astype("float32"), stop_gradient=False) for i in range(3)
    )
    mask = np.ones((1, 1, 3, 3), bool)
    mask[0, 0, 1] = False
    out = ops.attention(q, k, v, causal=False, mask_BNSS=paddle.to_tensor(mask))
    out.sum().backward()
    assert all(np.isfinite(x.numpy()).all() for x in (out, q.grad, k.grad, v.grad))


SEGMENTS = {
    "equal": [0, 4, 8, 12],
    "ragged": [0, 4, 5, 9, 12, 14],
    "with an empty one": [0, 3, 3, 7],
    "one": [0, 6],
}


@pytest.mark.parametrize("ends", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 1)])
def test_packed(ends, causal, heads, kv_heads) -> None:
    cu_seqlens, H = np.array(ends, np.int32), 4
    T = ends[-1]
    inputs = [oracle.draw(0, T, heads, H), oracle.draw(1, T, kv_heads, H), oracle.draw(2, T, kv_heads, H)]
    oracle.check(
        lambda q, k, v: ops.attention_packed(q, k, v, cu_seqlens, causal=causal),
        lambda q, k, v: oracle.packed(q, k, v, cu_seqlens, causal=causal),
        inputs,
    )


@pytest.mark.parametrize("ends", SEGMENTS.values(), ids=SEGMENTS)
def test_packed_in_blocks(ends, small_blocks) -> None:
    cu_seqlens, T = np.array(ends, np.int32), ends[-1]
    inputs = [oracle.draw(i, T, 2, 4) for i in range(3)]
    oracle.check(
        lambda q, k, v: ops.attention_packed(q, k, v, cu_seqlens, causal=True, window=3),
        lambda q, k, v: oracle.packed(q, k, v, cu_seqlens, causal=True, window=3),
        inputs,
    )


def test_equal_segments_cost_one_batch_however_they_lie() -> None:
    plan = attend_plan.make_plan(*[np.array([0, 4, 6, 10, 12, 16]).tobytes()] * 2, 2, 2, False, None)
    assert sorted((job.batch, job.queries) for job in plan.jobs) == [(4, 2), (6, 4)]


def test_causal_blocks_compute_only_keys_that_are_seen(small_blocks) -> None:
    plan = attend_plan.make_plan(*[np.array([0, 9]).tobytes()] * 2, 1, 1, True, None)
    assert [job.key_span for job in plan.jobs] == [(0, 3), (0, 6), (0, 9)]


def test_dropout_depends_on_key_and_place_only() -> None:
    T, N, H = 10, 2, 4
    cu_seqlens = np.array([0, 4, 10], np.int32)
    keys = np.array([[7, 8], [9, 10]], np.uint32)
    q, k, v = (oracle.draw(i, T, N, H) for i in range(3))

    def run(part: slice, ends: list[int], keys: np.ndarray) -> np.ndarray:
        tensors = [paddle.to_tensor(x[part].astype("float32")) for x in (q, k, v)]
        out = ops.attention_packed(
            *tensors, np.array(ends, np.int32), causal=True, dropout=0.4, dropout_keys=keys
        )
        return out.numpy()

    whole = run(slice(0, 10), cu_seqlens.tolist(), keys)
    np.testing.assert_array_equal(whole[4:], run(slice(4, 10), [0, 6], keys[1:]))
    factors = philox.keep_weights(keys[1:], range(N), (0, 6), (0, 6), 0.4)[0]
    assert 0.2 < (factors == 0).mean() < 0.6
    expected = oracle.attention(q[4:], k[4:], v[4:], causal=True, factors_NSM=factors)
    assert oracle.distance(whole[4:], expected) < oracle.FORWARD


def test_dropout_has_the_right_gradient() -> None:
    keys = np.array([[7, 8]], np.uint32)
    factors = philox.keep_weights(keys, range(2), (0, 5), (0, 5), 0.3)[0]
    oracle.check(
        lambda q, k, v: ops.attention(q, k, v, causal=True, dropout=0.3, dropout_keys=keys),
        lambda q, k, v: oracle.attention(q[0], k[0], v[0], causal=True, factors_NSM=factors)[None],
        [oracle.draw(i, 1, 5, 2, 4) for i in range(3)],
    )


@pytest.mark.parametrize("slots", [12, 700])
def test_decode_reads_each_rows_own_length(slots) -> None:
    B, N, K, H = 3, 4, 2, 8
    lengths = np.array([3, 12, min(slots, 520)], np.int32)
    q, k, v = oracle.draw(0, B, N, H), oracle.draw(1, B, K, slots, H), oracle.draw(2, B, K, slots, H)
    out = ops.attention_decode(
        *(paddle.to_tensor(x.astype("float32")) for x in (q, k, v)), lengths_B=lengths
    ).numpy()
    for b in range(B):
        k_MKH, v_MKH = (x[b, :, : lengths[b]].transpose(1, 0, 2) for x in (k, v))
        expected = oracle.attention(q[b, None], k_MKH, v_MKH)[0]
        assert oracle.distance(out[b], expected) < oracle.FORWARD


def test_frozen_inputs_are_allowed() -> None:
    q = paddle.to_tensor(oracle.draw(0, 1, 4, 2, 4).astype("float32"), stop_gradient=False)
    k, v = (paddle.to_tensor(oracle.draw(i, 1, 4, 2, 4).astype("float32")) for i in (1, 2))
    ops.attention(q, k, v, causal=True).sum().backward()
    assert q.grad is not None and k.grad is None


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_nan_is_never_lost(which) -> None:
    rng = np.random.default_rng(5)
    parts = {name: rng.standard_normal((1, 6, 2, 16)).astype(np.float32) for name in "qkv"}
    parts[which][0, 3, 1, 2] = np.nan
    out = ops.attention(*(paddle.to_tensor(parts[name]) for name in "qkv"), causal=True).numpy()
    rows = np.isnan(out[0, :, 1]).any(axis=-1)
    assert rows[3] and (which == "q" or rows[3:].all())
    assert not np.isnan(out[0, :, 0]).any(), "the other head has none"
