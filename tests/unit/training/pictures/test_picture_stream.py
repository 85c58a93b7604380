"""Batches of pictures: drawn anew each epoch, the same again, and from any place on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mix_core.config import RunConfig
from mix_core.data.captions import CaptionedPicture
from mix_core.device.ranks import Job
from mix_core.errors import DataError
from mix_core.training.pictures.stream import NOT_LEARNT, PictureStream


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[CaptionedPicture]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    found = []
    for i, size in enumerate([(12, 12), (8, 24), (12, 12), (24, 8), (12, 12)]):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        found.append(CaptionedPicture(path, (f"picture {i}",)))
    return found


def stream(pictures: list[CaptionedPicture], *, side: int = 8, **options: Any) -> PictureStream:
    keys = {name: options.pop(name) for name in list(options) if name in RunConfig.model_fields}
    config = RunConfig(per_device_train_batch_size=2, **keys)
    return PictureStream(pictures, config, side, **options)


def taken(made: PictureStream, steps: int) -> list[dict[str, Any]]:
    found = [batch for _ in range(steps) for batch in made.next_step().passes]
    made.close()
    return found


def test_every_picture_once_an_epoch_and_cut_anew_in_the_next(pictures) -> None:
    batches = taken(stream(pictures, random_flip=True, proportion_empty_prompts=0.3), 6)
    assert [len(batch["prompts"]) for batch in batches].count(1) == 2, "the last of each epoch"
    epochs = batches[:3], batches[3:]
    numbers = [sorted(int(n) for batch in epoch for n in batch["labels"]) for epoch in epochs]
    assert numbers == [[0, 1, 2, 3, 4]] * 2
    by_number = [
        {int(n): pixels for batch in epoch for n, pixels in zip(batch["labels"], batch["pixels"])}
        for epoch in epochs
    ]
    assert any((by_number[0][n] != by_number[1][n]).any() for n in range(5))
    assert batches[0]["pixels"].shape == (2, 3, 8, 8) and batches[0]["time_ids"].shape == (2, 6)
    ids = np.concatenate([batch["sample_ids"] for batch in batches])
    assert len(set(ids.tolist())) == len(ids) == 10


def test_a_stream_goes_on_where_another_stopped_and_whatever_its_threads(pictures) -> None:
    whole = taken(stream(pictures, random_flip=True), 5)
    rest = taken(stream(pictures, random_flip=True, position=2, workers=3), 3)
    for found, expected in zip(rest, whole[2:]):
        np.testing.assert_array_equal(found["pixels"], expected["pixels"])
        np.testing.assert_array_equal(found["sample_ids"], expected["sample_ids"])
        assert found["prompts"] == expected["prompts"]


def test_ranks_share_a_step(pictures) -> None:
    alone = taken(stream(pictures, gradient_accumulation_steps=2), 2)
    ranks = [taken(stream(pictures, job=Job(rank=rank, ranks=2)), 2) for rank in range(2)]
    shared = sorted(tuple(batch["sample_ids"].tolist()) for one in ranks for batch in one)
    assert shared == sorted(tuple(batch["sample_ids"].tolist()) for batch in alone)


def test_buckets_keep_shapes(pictures) -> None:
    made = stream(pictures, aspect_ratio_buckets=True, bucket_step=8, side=32)
    batches = taken(made, made.per_epoch)
    shapes = {int(n): batch["pixels"].shape[2:] for batch in batches for n in batch["labels"]}
    assert shapes[0] == (32, 32) and shapes[1][0] < shapes[1][1] and shapes[3][0] > shapes[3][1]


def test_pictures_of_the_class_stand_beside_the_others(pictures) -> None:
    kept = [CaptionedPicture(one.path, ("a thing",)) for one in pictures[:2]]
    batch = taken(stream(pictures[2:], kept=kept, proportion_empty_prompts=1.0), 1)[0]
    assert (batch["labels"] == NOT_LEARNT).tolist() == [False, False, True, True]
    assert batch["prompts"] == ["", "", "a thing", "a thing"]


def test_kept_latents_have_few_places_and_all_flips(pictures) -> None:
    made = stream(pictures[:1], cache_latents=True, cached_crops=2, random_flip=True)
    keys = {batch["latent_keys"][0] for batch in taken(made, 24)}
    assert len({key[1:3] for key in keys}) == 2 and {key[3] for key in keys} == {True, False}


def test_a_picture_that_cannot_be_read_is_named(pictures, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    made = stream([CaptionedPicture(broken, ("x",))])
    with pytest.raises(DataError, match=r"broken\.png"):
        made.next_step()
    assert made.position == 0
    made.close()
    with pytest.raises(DataError, match="no picture"):
        stream([])
