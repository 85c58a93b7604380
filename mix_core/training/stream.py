"""The batches of each optimizer step: the loader's, gathered into steps that never cross an epoch's end."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mix_core.data.loader import COUNTED_ROWS, BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
from mix_core.data.skipped import SkippedRows
from mix_core.data.table import as_table
from mix_core.device.ranks import Job
from mix_core.errors import ConfigError
from mix_core.training.lengths import about_length
from mix_core.training.processors import make_processor, processor_options

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.training.rows import Rows


@dataclass(frozen=True)
class StepBatches:
    """What one optimizer step sees on this rank: a batch for each of its passes."""

    passes: list[dict[str, np.ndarray]]
    """None, on some ranks, where an epoch ends within a step."""
    tokens: int
    """Tokens that are no padding."""
    epoch: float
    """Passes over the rows, this step included."""
    ends_epoch: bool


def row_order(rows: Rows, config: RunConfig, ranks: int = 1) -> RowOrder:
    """In which order epochs visit the rows, with so many ranks."""
    sizes, repeats = tuple(rows.train_sizes), rows.train_repeats
    order = RowOrder(sizes, repeats=tuple(repeats) if repeats else None)
    weights = rows.train_weights
    if config.use_data_resampling:
        weights = [math.sqrt(count) for count in order.counts]
    return replace(
        order,
        seed=config.seed if config.data_seed is None else config.data_seed,
        shuffle=config.shuffle,
        weights=tuple(weights) if weights else None,
        lengths=as_table(rows.train).about_lengths(about_length) if config.group_by_length else None,
        batch_size=config.samples_per_step * ranks,
        leading=_leading(rows, config.first_task),
    )


def _leading(rows: Rows, task: str | None) -> list[bool] | None:
    """Which rows belong to the task that the first epoch begins with."""
    if task is None:
        return None
    tasks = [row.get("task") if row is not None else None for row in as_table(rows.train).usable()]
    leading = [name == task for name in tasks]
    if not any(leading):
        found = sorted({name for name in tasks if name})
        raise ConfigError(f"first_task is {task!r}, and the rows name the tasks {found}; name one of them")
    return leading


class StepStream:
    """Gives the batches of one step after the other, endlessly.

    `position` counts the rows visited by all steps given so far, `waiting` are the visits that packing has
    read ahead; a stream that starts from both goes on with the same batches.
    """

    def __init__(
        self,
        rows: Rows,
        processor: Any,
        folder: Path,
        config: RunConfig,
        *,
        position: int,
        workers: int,
        waiting: Sequence[int] = (),
        job: Job | None = None,
        skipped: SkippedRows | None = None,
    ) -> None:
        """`job`: the rank that the passes are for; it gets those that fall to it of each step."""
        self.job = job or Job()
        self.passes_per_step = config.gradient_accumulation_steps * self.job.ranks
        self.position, self.waiting = position, list(waiting)
        self.skipped = SkippedRows() if skipped is None else skipped
        self.loader = BatchLoader(
            rows.train,
            processor,
            BatchSettings(
                batch_size=config.per_device_train_batch_size,
                max_length=config.max_length,
                on_too_long=config.on_too_long,
                on_bad_sample=config.on_bad_sample,
                packing=config.packing,
                train_on_prompt=config.train_on_prompt,
                mask_history=config.mask_history,
                drop_last=config.drop_last,
            ),
            position=position,
            waiting=waiting,
            order=row_order(rows, config, self.job.ranks),
            num_workers=workers,
            make_processor=partial(make_processor, str(folder), processor_options(config)),
            skipped=self.skipped,
        )

    def steps_in(self, epochs: float) -> int:
        """Optimizer steps in so many epochs; estimated, and said so, where rows must be encoded to know."""
        per_epoch = math.ceil(self.loader.batches_in_epoch() / self.passes_per_step)
        if not self.loader.counts_exactly and self.job.rank == 0:
            print(
                f"about {per_epoch:,} steps in an epoch, from the lengths of {COUNTED_ROWS} rows; "
                "max_steps says it exactly",
                file=sys.stderr,
            )
        return max(1, math.ceil(per_epoch * epochs))

    def next_step(self) -> StepBatches:
        """The batches of the next step.

        Raises:
            DataError: a row cannot be made a sample; `position` still stands before this step.
        """
        passes: list[dict[str, np.ndarray]] = []
        count = 0
        while count < self.passes_per_step and not (count and self.loader.ends_epoch):
            batch = next(self.loader)
            if count % self.job.ranks == self.job.rank:
                passes.append(batch)
            count += 1
        self.position, self.waiting = self.loader.position, self.loader.waiting
        self.skipped.flush()
        return StepBatches(
            passes=passes,
            tokens=sum(int(batch["attention_mask"].sum()) for batch in passes),
            epoch=self.loader.epoch,
            ends_epoch=self.loader.ends_epoch,
        )

    def close(self) -> None:
        """End the data workers."""
        self.loader.close()
