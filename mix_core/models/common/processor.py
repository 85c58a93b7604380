"""What the families' processors share: a conversation to a sample, samples to a batch, the folder's files.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate
from mix_core.models.common.collate import Batch, Sample, collate_text

GENERATION_CONFIG = "generation_config.json"


class TooLongError(DataError):
    """A sample has more tokens than it may have."""


@dataclass
class BaseProcessor:
    """Everything that stands between a user's data and a model's inputs, as far as families agree on it.

    A family defines `apply_chat_template`, `find_visuals`, `__call__`, and what is missing here:
    `visual_token_ids`, `sample_of`, `arrays` and `changed`.
    """

    tokenizer: Any
    chat_template: ChatTemplate | None
    config: Any
    files: dict[str, dict[str, Any]]
    """Content of the folder's JSON files, written again by `save`."""
    skipped: int = field(default=0, kw_only=True)
    """Samples that `encode` left out because they were too long."""

    templates: dict[str, ChatTemplate] = field(default_factory=dict, kw_only=True)
    """Templates of single sets of rows, by the name that the configuration gives them."""

    shorten: ClassVar[str] = "raise max_length or skip such rows"
    """What to do about a sample that is too long."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Keys of a run that `changed` takes."""

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Ids whose places hold pictures and videos: a sample is not cut among them."""
        raise TypeError(f"{type(self).__name__} must define visual_token_ids")

    def sample_of(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        train_on_prompt: bool,
        mask_history: bool,
    ) -> Sample:
        """`encode` without its bookkeeping. Raises DataError, TooLongError by `check_length`."""
        raise TypeError(f"{type(self).__name__} must define sample_of")

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        """What the model takes of the samples' pictures and videos; nothing where there are none."""
        raise TypeError(f"{type(self).__name__} must define arrays")

    @property
    def other_options(self) -> str:
        """Why the model has no others than its `options`, and what to do, for error texts."""
        return "leave them out"

    def changed(self, **options: Any) -> BaseProcessor:
        """A copy with some of `options`, none of them None. Raises ConfigError where they contradict."""
        raise TypeError(f"{type(self).__name__} must define changed")

    def with_options(self, **options: Any) -> BaseProcessor:
        """A copy with the keys of a run that are not None. Raises BadInputError.

        A key that the family does not have may ask for nothing (false, 0); `conv_style` may ask for anything,
        because only InternVL2 has templates by that name.
        """
        refused = sorted(key for key, value in options.items() if value and key not in self.options)
        refused = [key for key in refused if key != "conv_style"]
        if refused:
            raise ConfigError(f"the model has no {', '.join(refused)}: {self.other_options}")
        taken = {key: value for key, value in given(**options).items() if key in self.options}
        return replace(self.changed(**taken), skipped=0)

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """Ids that end an answer in the family's own template, whatever the folder's files say."""
        return ()

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: `turn_ends`, generation_config.json's eos_token_id, the tokenizer's."""
        listed = self.files.get(GENERATION_CONFIG, {}).get("eos_token_id")
        ids = listed if isinstance(listed, list) else [listed]
        every = (*self.turn_ends, *ids, self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(i for i in every if i is not None))

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts of `stop_token_ids`."""
        return tuple(self.tokenizer.decode([i], skip_special_tokens=False) for i in self.stop_token_ids)

    @property
    def template(self) -> ChatTemplate:
        """`chat_template`. Raises BadInputError where the folder has none."""
        if self.chat_template is None:
            raise BadInputError(
                f"the model folder has no chat template; expected {TEMPLATE_FILE}, or chat_template in "
                "chat_template.json, processor_config.json or tokenizer_config.json"
            )
        return self.chat_template

    def with_template(self, name: str) -> BaseProcessor:
        """A copy with one of `templates` in place of the folder's or the run's."""
        return replace(self, chat_template=self.templates[name])

    def with_tiles(self, most: int) -> BaseProcessor:
        """A copy that cuts a picture into at most so many tiles. Raises ConfigError where there are none."""
        raise ConfigError(f"a data set has max_dynamic_patch and the model has not: {self.other_options}")

    def encode(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        train_on_prompt: bool = False,
        mask_history: bool = False,
        on_too_long: str = "error",
        describe: str = "the sample",
    ) -> Sample | None:
        """One training sample for `collate`; None where it is too long and ``on_too_long`` is "skip".

        Keys: input_ids (S,) and labels (S,), int64, and the family's own. The ids are those that `__call__`
        gives for the same text. Learned are the assistant's texts with the end token after each;
        ``mask_history``: only the last one; ``train_on_prompt``: all but pictures' places. Raises DataError
        that begins with ``describe``, the sample's place in its data set.
        """
        if on_too_long not in ("error", "skip"):
            raise ConfigError(f"on_too_long is {on_too_long!r}, expected error or skip")
        try:
            return self.sample_of(
                messages, max_length=max_length, train_on_prompt=train_on_prompt, mask_history=mask_history
            )
        except DataError as error:
            if isinstance(error, TooLongError) and on_too_long == "skip":
                self.skipped += 1
                return None
            raise DataError(f"{describe}: {error}") from error

    def check_length(self, length: int, of_text: int, max_length: int | None) -> None:
        """Raise TooLongError for more than `max_length` tokens; `of_text`: without those of pictures."""
        if max_length is not None and length > max_length:
            raise TooLongError(
                f"it has {length} tokens ({length - of_text} of them added by pictures), max_length is "
                f"{max_length}; {self.shorten}"
            )

    def collate(
        self, samples: Sequence[Sample], *, packing: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Samples of `encode` -> a batch for the model's `loss`.

        Text as in `collate_text`; what belongs to pictures and videos only where a sample has any.
        """
        batch = collate_text(
            samples, pad_token_id=self.tokenizer.pad_token_id, packing=packing, padding_side=padding_side
        )
        return {**batch, **self.arrays(samples)}

    def padded(self, rows: Sequence[np.ndarray], padding_side: str) -> Batch:
        """input_ids and attention_mask (B, S) int64 of rows of ids."""
        samples = [{"input_ids": row} for row in rows]
        batch = collate_text(samples, pad_token_id=self.tokenizer.pad_token_id, padding_side=padding_side)
        return {key: batch[key] for key in ("input_ids", "attention_mask")}

    @property
    def writes_template(self) -> bool:
        """Whether the folder needs a file for the template."""
        return self.chat_template is not None

    def files_to_save(self) -> dict[str, dict[str, Any]]:
        """JSON files beside the tokenizer's and the model's."""
        return self.files

    def save(self, folder: Path) -> None:
        """Write the files that `load_processor` and transformers read; config.json belongs to the model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        if self.writes_template:
            (folder / TEMPLATE_FILE).write_text(self.template.source, encoding="utf-8")
        for name, content in self.files_to_save().items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def flattened(images: Sequence[Any] | None) -> list[Any]:
    """Pictures, with lists of them within the list joined."""
    return [one for item in images or () for one in (item if isinstance(item, (list, tuple)) else [item])]


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {key: value for key, value in options.items() if value is not None}
