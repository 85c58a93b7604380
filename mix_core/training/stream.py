"""The batches of each optimizer step: the loader's, gathered into steps that never cross an epoch's end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mix_core.data.loader import BatchLoader, BatchSettings
from mix_core.data.mixing import RowOrder
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
    return RowOrder(
        sizes=tuple(rows.train_sizes),
        seed=config.seed if config.data_seed is None else config.data_seed,
        shuffle=config.shuffle,
        weights=tuple(math.sqrt(size) for size in rows.train_sizes) if config.use_data_resampling else None,
        lengths=[about_length(row) for row in rows.train] if config.group_by_length else None,
        batch_size=config.samples_per_step * ranks,
        leading=_leading(rows, config.first_task),
    )


def _leading(rows: Rows, task: str | None) -> list[bool] | None:
    """Which rows belong to the task that the first epoch begins with."""
    if task is None:
        return None
    leading = [row.get("task") == task for row in rows.train]
    if not any(leading):
        found = sorted({row["task"] for row in rows.train if row.get("task")})
        raise ConfigError(f"first_task is {task!r}, and the rows name the tasks {found}; name one of them")
    return leading


class StepStream:
    """Gives the batches of one step after the other, endlessly.

    `position` counts the rows visited by all steps given so far; a stream that starts there goes on with the
    same batches.
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
        job: Job | None = None,
    ) -> None:
        """`job`: the rank that the passes are for; it gets those that fall to it of each step."""
        self.job = job or Job()
        self.passes_per_step = config.gradient_accumulation_steps * self.job.ranks
        self.position = position
        self.loader = BatchLoader(
            rows.train,
            processor,
            BatchSettings(
                batch_size=config.per_device_train_batch_size,
                max_length=config.max_length,
                on_too_long=config.on_too_long,
                packing=config.packing,
                train_on_prompt=config.train_on_prompt,
                mask_history=config.mask_history,
                drop_last=config.drop_last,
            ),
            position=position,
            order=row_order(rows, config, self.job.ranks),
            num_workers=workers,
            make_processor=partial(make_processor, str(folder), processor_options(config)),
        )

    def steps_in(self, epochs: float) -> int:
        """Optimizer steps in so many epochs."""
        per_epoch = math.ceil(self.loader.batches_in_epoch() / self.passes_per_step)
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
        self.position = self.loader.position
        return StepBatches(
            passes=passes,
            tokens=sum(int(batch["attention_mask"].sum()) for batch in passes),
            epoch=self.loader.epoch,
            ends_epoch=self.loader.ends_epoch,
        )

    def close(self) -> None:
        """End the data workers."""
        self.loader.close()
