"""Batches: their order, resuming, packing, what is left out, and that workers change nothing."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from builders.toy_processor import ToyProcessor, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.errors import DataError

TEXTS = [f"{chr(97 + n % 26) * (1 + n * 7 % 19)}{n:03d}" for n in range(40)]  # 4 to 22 tokens, all different


def load(texts=TEXTS, *, position=0, waiting=(), seed=5, processor=None, order=None, workers=0, **options):
    options = {"batch_size": 6, "max_length": 24, **options}
    return BatchLoader(
        rows_of(texts),
        processor or ToyProcessor(),
        BatchSettings(**options),
        seed=seed,
        position=position,
        waiting=waiting,
        order=order,
        num_workers=workers,
        make_processor=ToyProcessor,
    )


def texts_of(batch):
    """The samples of a batch, read back from its ids, in order."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if "cu_seqlens" in batch:
        bounds = batch["cu_seqlens"]
        parts = [ids[0, start:end] for start, end in pairwise(bounds)]
    else:
        parts = [row[keep == 1] for row, keep in zip(ids, mask)]
    return [bytes(part.astype(np.uint8)).decode() for part in parts]


def same(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key], err_msg=key, strict=True)


def test_an_epoch_gives_every_row_once_and_then_another_order():
    loader = load()
    batches = list(islice(loader, 7))
    assert [len(texts_of(batch)) for batch in batches] == [6, 6, 6, 6, 6, 6, 4]
    first = [text for batch in batches for text in texts_of(batch)]
    assert sorted(first) == sorted(TEXTS)
    assert (loader.position, loader.epoch, loader.ends_epoch) == (40, 1.0, True)
    second = [text for batch in islice(loader, 7) for text in texts_of(batch)]
    assert sorted(second) == sorted(TEXTS) and second != first
    assert loader.batches_in_epoch() == 7


def test_order_depends_on_seed_and_epoch_only():
    small = load(batch_size=1)
    large = load(batch_size=40, cache_bytes=0)
    visits = [text for batch in islice(small, 80) for text in texts_of(batch)]
    assert visits == [text for batch in islice(large, 2) for text in texts_of(batch)]
    assert visits[:40] != texts_of(next(load(batch_size=40, seed=6)))


def test_sample_ids_count_visits():
    loader = load(batch_size=16)
    ids = [id for batch in islice(loader, 6) for id in batch["sample_ids"]]
    assert ids == list(range(80))


@settings(deadline=None, max_examples=40)
@given(
    packing=st.booleans(),
    drop_last=st.booleans(),
    on_too_long=st.sampled_from(["error", "skip", "truncate"]),
    max_length=st.sampled_from([12, 22, 60]),
    batch_size=st.integers(1, 9),
    at=st.integers(0, 30),
    workers_cache=st.sampled_from([0, 1 << 20]),
)
def test_a_resumed_run_goes_on_with_the_same_batches(
    packing, drop_last, on_too_long, max_length, batch_size, at, workers_cache
):
    if on_too_long == "error":
        max_length = max(max_length, 22)
    options = {
        "packing": packing,
        "drop_last": drop_last,
        "on_too_long": on_too_long,
        "max_length": max_length,
        "batch_size": batch_size,
        "cache_bytes": workers_cache,
    }
    whole = load(**options)
    for _ in range(at):
        next(whole)
    resumed = load(position=whole.position, waiting=whole.waiting, **options)
    for _ in range(12):
        same(next(whole), next(resumed))
        assert whole.position == resumed.position and whole.ends_epoch == resumed.ends_epoch
        assert whole.waiting == resumed.waiting


@settings(deadline=None, max_examples=40)
@given(
    packing=st.booleans(),
    drop_last=st.booleans(),
    max_length=st.integers(8, 40),
    batch_size=st.integers(1, 9),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
)
def test_long_samples_are_left_out_and_epochs_end_where_they_end(
    packing, drop_last, max_length, batch_size, lengths
):
    texts = [f"{n:03d}"[:length] + "x" * (length - 3) for n, length in enumerate(lengths)]
    kept = sorted(text for text in texts if len(text) <= max_length)
    if not kept or (drop_last and len(kept) < batch_size):
        return
    loader = load(
        texts,
        packing=packing,
        drop_last=drop_last,
        max_length=max_length,
        batch_size=batch_size,
        on_too_long="skip",
    )
    expected = loader.batches_in_epoch()
    for epoch in (1, 2):
        count, seen = 0, []
        while loader.position < epoch * len(texts):
            seen += texts_of(next(loader))
            count += 1
        assert loader.position == epoch * len(texts) and loader.ends_epoch
        if epoch == 1:
            assert count == expected
        if drop_last and not packing:
            assert len(seen) == len(kept) // batch_size * batch_size and set(seen) <= set(kept)
        else:
            assert sorted(seen) == kept


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    capacity=st.integers(30, 70),
    batch_size=st.integers(1, 4),
)
def test_packed_segments_are_whole_samples_with_their_own_labels_and_positions(lengths, capacity, batch_size):
    texts = [chr(65 + n % 50) * length for n, length in enumerate(lengths)]
    loader = load(texts, packing=True, max_length=capacity, batch_size=batch_size)
    seen = []
    while loader.position < len(texts):
        batch = next(loader)
        length = batch["input_ids"].shape[1]
        assert batch["input_ids"].shape == batch["labels"].shape == (1, length)
        assert batch["position_ids"].shape == (3, 1, length)
        assert length <= batch_size * capacity
        bounds = batch["cu_seqlens"]
        assert bounds[0] == 0 and bounds[-1] == length and len(batch["sample_ids"]) == len(bounds) - 1
        for start, end in pairwise(bounds):
            ids = batch["input_ids"][0, start:end]
            assert len(set(ids.tolist())) == 1  # one sample and no part of another
            np.testing.assert_array_equal(batch["labels"][0, start:end], ids)
            np.testing.assert_array_equal(batch["position_ids"][:, 0, start:end], [range(end - start)] * 3)
        seen += texts_of(batch)
    assert sorted(seen) == sorted(texts)


def test_packing_fills_rows():
    loader = load(packing=True, max_length=60, batch_size=2)
    lengths = [next(loader)["input_ids"].shape[1] for _ in range(loader.batches_in_epoch())]
    assert sum(lengths) == sum(map(len, TEXTS)) == 509
    assert len(lengths) == 5  # 4.2 batches of 120 tokens, were samples divisible


def test_a_long_sample_is_an_error_by_default():
    with pytest.raises(DataError, match=r"toy\.json row \d+: it has 2\d tokens, max_length is 20"):
        list(islice(load(max_length=20), 7))


def test_what_leaves_no_batch_is_said():
    with pytest.raises(DataError, match="every row is left out; the first of them: longer than max_length"):
        next(load(max_length=2, on_too_long="skip"))
    with pytest.raises(DataError, match="there are no rows"):
        load([])
    with pytest.raises(DataError, match="3 rows do not fill one batch of 6"):
        load(TEXTS[:3], drop_last=True)


def test_the_cache_encodes_every_row_once_repeats_included():
    processor = ToyProcessor()
    order = RowOrder((len(TEXTS),), repeats=(2.0,))
    loader = load(processor=processor, order=order, batch_size=8)
    batches = list(islice(loader, 20))
    assert sorted(processor.encoded) == sorted(TEXTS)
    assert sum(len(texts_of(batch)) for batch in batches) == 160


def test_the_cache_keeps_to_its_size():
    texts = ["pixels"] * 50  # 6000 bytes of patches in each
    processor = ToyProcessor()
    loader = load(texts, processor=processor, batch_size=10, cache_bytes=100_000)
    assert sum(map(len, map(texts_of, islice(loader, 15)))) == 150
    encoded_each_epoch = (len(processor.encoded) - 50) / 2
    assert 50 - 100_000 // 6000 <= encoded_each_epoch <= 40


def test_another_order_is_followed():
    order = RowOrder((10, 30), shuffle=False, weights=(3.0, 1.0))
    visits = texts_of(next(load(order=order, batch_size=40)))
    assert visits == TEXTS[:10] * 3 + TEXTS[10:20]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_workers_give_the_same_batches(packing, cache_bytes):
    texts = [text + "pixels" * (n % 3 == 0) for n, text in enumerate(TEXTS)]
    options = {"packing": packing, "cache_bytes": cache_bytes, "max_length": 30}
    here = load(texts, **options)
    with load(texts, workers=2, **options) as there:
        for _ in range(20):
            batch = next(there)
            same(batch, next(here))
        assert any("pixel_values" in next(there) for _ in range(5))
        assert there.batches_in_epoch() == here.batches_in_epoch()
