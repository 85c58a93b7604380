"""The batches of each step of a run that learns pictures.

A picture's cut, mirror and prompt are drawn anew in every epoch by seed, epoch and number, so a run repeats,
and one that is resumed goes on with the same. Threads read ahead; what they give does not depend on them.

Shapes: B samples, H and W of a batch's pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mix_core.data.buckets import bucket_batches, bucket_of, make_buckets
from mix_core.data.captions import CaptionedPicture
from mix_core.data.draws import Draws
from mix_core.data.images import load_image
from mix_core.data.pictures import Augmentation, Cut, Drawn, cut_picture, draw_for
from mix_core.data.skipped import SkippedRows
from mix_core.device.ranks import Job
from mix_core.errors import DataError
from mix_core.training.stream import StepBatches

if TYPE_CHECKING:
    from mix_core.config import RunConfig

NOT_LEARNT = -100
"""Label of a picture of the class that is kept: its loss counts, it is no sample of the mean."""


@dataclass(frozen=True)
class Sample:
    """What is to be read for one place of a batch."""

    picture: CaptionedPicture
    number: int
    """Among all pictures, those of the class behind the others."""
    visit: int
    """Counts through the run: what is drawn in a step is drawn for it."""
    label: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Read:
    cut: Cut
    prompt: str
    drawn: Drawn


class PictureStream:
    """Gives the batches of one step after the other, endlessly; `position` counts those of all ranks."""

    waiting: tuple[int, ...] = ()
    """Nothing is packed."""

    def __init__(
        self,
        pictures: Sequence[CaptionedPicture],
        config: RunConfig,
        side: int,
        *,
        kept: Sequence[CaptionedPicture] = (),
        position: int = 0,
        workers: int = 0,
        job: Job | None = None,
        tokens: Callable[[int, int], int] = lambda height, width: 1,
    ) -> None:
        """`side`: pixels of a square picture. `kept`: pictures of the class, as many as others in a batch.
        `tokens`: of a picture in the network, by height and width, for the speed that is shown.

        Raises:
            DataError: there is no picture, or one cannot be opened.
        """
        if not pictures:
            raise DataError("there is no picture to train on")
        self.pictures, self.kept, self.config = list(pictures), list(kept), config
        self.job, self.tokens = job or Job(), tokens
        self.passes_per_step = config.gradient_accumulation_steps * self.job.ranks
        self.seed = config.seed if config.data_seed is None else config.data_seed
        self.augmentation = Augmentation(
            config.center_crop, config.random_flip, config.proportion_empty_prompts
        )
        self.position, self.skipped = position, SkippedRows()
        self._pool = ThreadPoolExecutor(max(1, workers))
        self.buckets = [(side, side)]
        if config.aspect_ratio_buckets:
            self.buckets = make_buckets(side, config.bucket_step)
        self.of_sample = self._of_samples()
        self._epoch = -1
        self._batches: list[list[int]] = []
        self.per_epoch = len(self._batches_of(0))
        self._ahead: tuple[int, list[Future[Read]], list[Sample]] | None = None

    def _of_samples(self) -> list[int]:
        """Each picture's bucket."""
        if len(self.buckets) == 1:
            return [0] * len(self.pictures)
        sizes = self._pool.map(lambda one: _size_of(one), self.pictures)
        return [bucket_of(size, self.buckets) for size in sizes]

    def _batches_of(self, epoch: int) -> list[list[int]]:
        if epoch != self._epoch:
            size = self.config.per_device_train_batch_size
            found = bucket_batches(self.of_sample, size, self.seed, epoch if self.config.shuffle else 0)
            if self.config.drop_last:
                found = [batch for batch in found if len(batch) == size] or found
            self._epoch, self._batches = epoch, found
        return self._batches

    @property
    def epoch(self) -> float:
        """Passes over the pictures so far."""
        return self.position / self.per_epoch

    def steps_in(self, epochs: float) -> int:
        """Optimizer steps in so many epochs."""
        return max(1, math.ceil(math.ceil(self.per_epoch / self.passes_per_step) * epochs))

    def next_step(self) -> StepBatches:
        """The batches of the next step; a step never crosses an epoch's end.

        Raises:
            DataError: a picture cannot be read; `position` still stands before this step.
        """
        start, passes, count, tokens = self.position, [], 0, 0
        while count < self.passes_per_step and not (count and (start + count) % self.per_epoch == 0):
            if count % self.job.ranks == self.job.rank:
                batch = self._batch(start + count)
                tokens += len(batch["sample_ids"]) * self.tokens(*batch["pixels"].shape[2:])
                passes.append(batch)
            count += 1
        self.position = start + count
        ends = self.position % self.per_epoch == 0
        return StepBatches(passes=passes, tokens=tokens, epoch=self.epoch, ends_epoch=ends)

    def _batch(self, place: int) -> dict[str, Any]:
        """The batch at this place of the run; the next one of this rank is read in the meantime."""
        if self._ahead is None or self._ahead[0] != place:
            self._ahead = self._begin(place)
        _, futures, samples = self._ahead
        self._ahead = self._begin(place + self.job.ranks)
        return self._joined(samples, [future.result() for future in futures])

    def _begin(self, place: int) -> tuple[int, list[Future[Read]], list[Sample]]:
        samples = self._samples(place)
        epoch = place // self.per_epoch
        return place, [self._pool.submit(self._read, one, epoch) for one in samples], samples

    def _samples(self, place: int) -> list[Sample]:
        epoch, within = divmod(place, self.per_epoch)
        members = self._batches_of(epoch)[within]
        size = self.buckets[self.of_sample[members[0]]]
        first = place * self.config.per_device_train_batch_size * 2
        samples = [Sample(self.pictures[m], m, first + i, m, size) for i, m in enumerate(members)]
        if self.kept:
            turn = place * self.config.per_device_train_batch_size
            for i in range(len(members)):
                samples.append(self._kept_sample(turn + i, first + len(members) + i, size))
        return samples

    def _kept_sample(self, turn: int, visit: int, size: tuple[int, int]) -> Sample:
        """Pictures of the class come by turns, in a new order each time round."""
        rounds, within = divmod(turn, len(self.kept))
        chosen = int(Draws("class", self.seed, rounds).permutation(len(self.kept))[within])
        return Sample(self.kept[chosen], len(self.pictures) + chosen, visit, NOT_LEARNT, size)

    def _read(self, sample: Sample, epoch: int) -> Read:
        captions = sample.picture.captions
        drawn = draw_for(self.augmentation, len(captions), self.seed, epoch, sample.number)
        if self.config.cache_latents and not self.config.center_crop:
            drawn = self._kept_place(drawn, sample.number, epoch)
        if sample.label == NOT_LEARNT:
            drawn = replace(drawn, empty=False)
        cut = cut_picture(load_image(sample.picture.path), sample.size, drawn)
        return Read(cut, "" if drawn.empty else captions[drawn.caption], drawn)

    def _kept_place(self, drawn: Drawn, number: int, epoch: int) -> Drawn:
        """One of `cached_crops` places of the picture, drawn in each epoch."""
        choice = Draws("kept place", self.seed, epoch, number).below(self.config.cached_crops)
        top, left = Draws("kept places", self.seed, number, choice).fractions(2).tolist()
        return replace(drawn, top=top, left=left)

    def _joined(self, samples: list[Sample], read: list[Read]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "pixels": np.stack([one.cut.pixels for one in read]),
            "prompts": [one.prompt for one in read],
            "sample_ids": np.array([one.visit for one in samples], np.int64),
            "labels": np.array([one.label for one in samples], np.int64),
            "time_ids": np.array([one.cut.time_ids for one in read], np.float32),
        }
        if self.config.cache_latents:
            batch["latent_keys"] = [
                (sample.number, one.drawn.top, one.drawn.left, one.drawn.flip, sample.size)
                for sample, one in zip(samples, read)
            ]
        return batch

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _size_of(one: CaptionedPicture) -> tuple[int, int]:
    """(height, width), upright."""
    try:
        with Image.open(one.path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError) as error:
        raise DataError(f"{one.path} cannot be opened as a picture: {error}") from None
