"""Rows that cannot be used, samples that are too long: an error, left out and counted, or cut."""

from __future__ import annotations

import json
from itertools import islice, pairwise

import numpy as np
import pytest
from builders.toy_processor import ToyProcessor, rows_of

from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.data.skipped import SkippedRows
from mix_core.data.table import MemorySet, RowTable
from mix_core.data.truncation import truncated
from mix_core.errors import DataError

TEXTS = [f"{n:02d}" + "x" * (n % 7) for n in range(30)]
BAD = {3: "[bad]", 11: "[bad] too", 28: "[bad]"}
UNREADABLE = DataError("toy.json row 21: no list of messages")


def table():
    """30 rows, of which four cannot be used: three when encoded, one when read."""
    rows = rows_of([BAD.get(n, text) for n, text in enumerate(TEXTS)])
    rows[20] = UNREADABLE
    return RowTable([MemorySet(rows, lambda number: f"toy.json row {number + 1}")])


def load(*, workers=0, position=0, waiting=(), skipped=None, **options):
    settings = BatchSettings(**{"batch_size": 4, "max_length": 12, "on_bad_sample": "skip", **options})
    return BatchLoader(
        table(),
        ToyProcessor(),
        settings,
        order=RowOrder((30,), seed=2),
        position=position,
        waiting=waiting,
        num_workers=workers,
        make_processor=ToyProcessor,
        skipped=skipped,
    )


def texts_of(batch):
    ids = batch["input_ids"]
    if "cu_seqlens" in batch:
        parts = [ids[0, a:b] for a, b in pairwise(batch["cu_seqlens"])]
    else:
        parts = [row[keep == 1] for row, keep in zip(ids, batch["attention_mask"])]
    return [bytes(part.astype(np.uint8)).decode() for part in parts]


def epoch_of(loader):
    seen = []
    while not seen or not loader.ends_epoch:
        seen.append(texts_of(next(loader)))
    return seen


GOOD = sorted(text for n, text in enumerate(TEXTS) if n not in (*BAD, 20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("packing", [False, True])
def test_bad_rows_are_left_out_counted_and_named(tmp_path, workers, packing):
    skipped = SkippedRows(tmp_path / "skipped.jsonl")
    with load(workers=workers, packing=packing, skipped=skipped) as loader:
        for _ in range(2):  # a second epoch counts none of them again
            assert sorted(text for batch in epoch_of(loader) for text in batch) == GOOD
        assert loader.position == 60
    skipped.flush()
    assert skipped.counts() == {"skipped_bad": 4}
    named = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {entry["row"]: entry["reason"] for entry in named} == {
        "toy.json row 4": "a bad sample",
        "toy.json row 12": "a bad sample",
        "toy.json row 21": "no list of messages",
        "toy.json row 29": "a bad sample",
    }
    assert "rows left out: 4 cannot be used (the first: " in skipped.summary()


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_a_bad_row_is_an_error(workers):
    message = r"toy\.json row (4|12|29): a bad sample|toy\.json row 21: no list of messages"
    with load(workers=workers, on_bad_sample="error") as loader, pytest.raises(DataError, match=message):
        list(islice(loader, 8))


def test_too_long_and_bad_are_counted_apart():
    loader = load(on_too_long="skip", max_length=6)
    kept = [text for batch in epoch_of(loader) for text in batch]
    assert sorted(kept) == [text for text in GOOD if len(text) <= 6]
    long = sum(len(text) > 6 for text in GOOD)
    assert loader._source.skipped.counts() == {"skipped_bad": 4, "skipped_too_long": long}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_resumed_run_goes_on_at_the_next_sample_with_other_workers(tmp_path, packing, at):
    options = {"packing": packing, "max_length": 12, "batch_size": 2}
    with load(workers=2, **options) as whole:
        for _ in range(at):
            next(whole)
        position, waiting = whole.position, whole.waiting
        rest = [next(whole) for _ in range(15)]
    with load(position=position, waiting=waiting, **options) as resumed:
        for batch in rest:
            other = next(resumed)
            assert batch.keys() == other.keys()
            for key in batch:
                np.testing.assert_array_equal(batch[key], other[key])


def test_a_resumed_run_leaves_out_what_was_left_out_without_trying_it(tmp_path):
    path = tmp_path / "skipped.jsonl"
    before = SkippedRows(path)
    before.add("toy.json row 1", "no answer within 30 s")
    before.flush()
    with path.open("a") as file:
        file.write('{"row": "toy')  # killed while writing
    again = SkippedRows(path, known=path)
    kept = [text for batch in epoch_of(load(skipped=again)) for text in batch]
    assert TEXTS[0] not in kept and len(kept) == len(GOOD) - 1
    assert again.counts() == {"skipped_bad": 5}


def test_when_all_rows_are_left_out_the_first_reason_is_told():
    loader = BatchLoader(
        rows_of(["[bad]"] * 3),
        ToyProcessor(),
        BatchSettings(batch_size=2, max_length=9, on_bad_sample="skip"),
    )
    with pytest.raises(DataError, match="every row is left out; the first of them: a bad sample"):
        next(loader)


def test_a_long_sample_is_cut_and_never_longer():
    loader = load(on_too_long="truncate", max_length=5)
    kept = sorted(text for batch in epoch_of(loader) for text in batch)
    assert kept == sorted(text[:5] for text in GOOD)


class Seeing:
    visual_token_ids = (7,)


def sample_of(ids, learned_from):
    labels = np.where(np.arange(len(ids)) >= learned_from, ids, -100)
    return {"input_ids": np.array(ids), "labels": labels, "position_ids": np.array([range(len(ids))] * 3)}


def test_what_is_cut_keeps_pictures_whole_and_something_to_learn():
    sample = sample_of([1, 7, 7, 2, 3, 4, 5, 6], 4) | {"image_patches": np.zeros((8, 3))}
    cut = truncated(sample, 6, Seeing(), "a.json row 1")
    assert cut["input_ids"].tolist() == [1, 7, 7, 2, 3, 4] and cut["position_ids"].shape == (3, 6)
    assert cut["labels"].tolist() == [-100] * 4 + [3, 4] and cut["image_patches"].shape == (8, 3)
    assert truncated(sample, 8, Seeing(), "") is sample
    for limit, processor, message in (
        (2, Seeing(), r"a\.json row 1: it has 8 tokens, max_length is 2, and its pictures reach to token 3"),
        (4, Seeing(), r"a\.json row 1: it has 8 tokens, max_length is 4, and its answer begins beyond that"),
        (6, ToyProcessor(), r"this model cannot cut rows with pictures"),
    ):
        with pytest.raises(DataError, match=message):
            truncated(sample, limit, processor, "a.json row 1")
