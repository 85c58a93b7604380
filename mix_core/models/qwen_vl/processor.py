"""Messages and pictures to Qwen-VL's inputs: token ids, pixels, labels. Imports no paddle.

Shapes: B batch, S sequence, n pictures, Q tokens of a picture.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...} and {"type": "image", "image": path, address or PIL image}}; `<img>path</img>`
in a user's text is a picture too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.data.images import load_image
from mix_core.errors import BadInputError, DataError
from mix_core.models.common.chat_template import ChatTemplate
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.common.processor import GENERATION_CONFIG, BaseProcessor, flattened
from mix_core.models.common.supervision import labels_of, learned_spans
from mix_core.models.common.tokenizer import read_json
from mix_core.models.qwen_vl.config import config_from_dict
from mix_core.models.qwen_vl.image_processor import ImageProcessor
from mix_core.models.qwen_vl.list_format import PLACE, split_pictures
from mix_core.models.qwen_vl.messages import check_grounding, written
from mix_core.models.qwen_vl.templates import FORMATS
from mix_core.models.qwen_vl.tokenizer import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    IMAGE_END,
    IMAGE_PAD,
    IMAGE_START,
    QwenTokenizer,
)
from mix_core.models.registry import read_config


@dataclass
class Processor(BaseProcessor):
    chat_format: str
    """`chatml` (Qwen-VL-Chat) or `raw` (Qwen-VL): how messages become text if the folder has no template."""
    allow_private_urls: bool = False

    options = frozenset({"allow_private_urls"})

    @property
    def images(self) -> ImageProcessor:
        return ImageProcessor(self.config.vision.image_size)

    @property
    def turn_ends(self) -> tuple[int, ...]:
        turns = (IM_END, IM_START) if self.chat_format == "chatml" else ()
        return tuple(self.tokenizer.special_ids[token] for token in turns)

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return (IM_END, END_OF_TEXT) if self.chat_format == "chatml" else (END_OF_TEXT,)

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """A picture's places and the marks around them: the model looks for both."""
        return tuple(self.tokenizer.special_ids[token] for token in (IMAGE_START, IMAGE_PAD, IMAGE_END))

    @property
    def other_options(self) -> str:
        side = self.images.side
        return f"Qwen-VL brings every picture to {side} x {side} pixels and takes no videos; leave them out"

    def changed(self, *, allow_private_urls: bool = False) -> Processor:
        return replace(self, allow_private_urls=allow_private_urls or self.allow_private_urls)

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages; each picture is `<img>`, one pad token and `</img>`."""
        texts, _ = self._written(messages)
        return self.template.render(texts, add_generation_prompt=add_generation_prompt)

    def find_visuals(self, messages: list[dict[str, Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
        """Pictures that the messages name, in order, for `__call__`; no videos."""
        return self._written(messages)[1], []

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
    ) -> Batch:
        """Inputs of the model.

        A text is that of `apply_chat_template`, or one with `<img>path</img>` as the published tokenizer
        takes it. ``images`` go to the places without a path, in order, all rows together (lists within are
        joined).
        Returns input_ids and attention_mask (B, S) int64, and pixel_values (n, 3, side, side) float32 where
        there are pictures. Raises DataError where places and pictures differ in number.
        """
        if videos:
            raise DataError(f"{len(videos)} video(s) given; Qwen-VL takes pictures only")
        flat = flattened(images)
        rows, sources, taken = [], [], 0
        for row in [text] if isinstance(text, str) else text or []:
            pieces, found = split_pictures(row)
            for source in found:
                is_place = source in ("", IMAGE_PAD)
                sources.append(flat[taken] if is_place and taken < len(flat) else source)
                taken += is_place
            rows.append(self._expanded(self.tokenizer.encode(PLACE.join(pieces))))
        if text is None:
            sources = flat
        elif taken != len(flat):
            raise DataError(
                f"the text has {taken} image placeholder(s) and {len(flat)} image(s) were given; the numbers "
                "must be equal"
            )
        batch = self.arrays([self._cut(sources)])
        if text is None:
            return batch
        return {**self.padded(rows, padding_side), **batch}

    def sample_of(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        train_on_prompt: bool,
        mask_history: bool,
    ) -> Sample:
        """Of its own, with pictures: image_pixels (n, side, side, 3) uint8.

        As in the publisher's fine-tuning, the tokens that begin and end every turn are learned too, but not
        with ``mask_history``.
        """
        check_grounding(messages)
        texts, sources = self._written(messages)
        text, spans = learned_spans(
            self.template,
            texts,
            stop_texts=self.stop_texts,
            train_on_prompt=train_on_prompt,
            mask_history=mask_history,
        )
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        self.check_length(len(self._expanded(ids)), len(ids), max_length)
        labels = labels_of(np.array(ids), offsets, text, spans, (self.tokenizer.special_ids[IMAGE_PAD],))
        if not mask_history:
            marks = self._turn_marks(np.array(ids))
            labels[marks] = np.array(ids)[marks]
        sample = self._cut(sources)
        sample["input_ids"] = self._expanded(ids)
        sample["labels"] = np.repeat(labels, self._repeats(ids))
        return sample

    @property
    def writes_template(self) -> bool:
        return self.template.source != FORMATS[self.chat_format]

    def files_to_save(self) -> dict[str, dict[str, Any]]:
        generation = {**self.files.get(GENERATION_CONFIG, {}), "chat_format": self.chat_format}
        return {**self.files, GENERATION_CONFIG: generation}

    def _written(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
        return written(messages, lists=self.chat_format == "chatml")

    def _repeats(self, ids: Sequence[int]) -> np.ndarray:
        """How often each token stands in the model's input: a pad token once for each token of a picture."""
        is_pad = np.array(ids, np.int64) == self.tokenizer.special_ids[IMAGE_PAD]
        return np.where(is_pad, self.config.vision.n_queries, 1)

    def _expanded(self, ids: Sequence[int]) -> np.ndarray:
        return np.repeat(np.array(ids, np.int64), self._repeats(ids))

    def _turn_marks(self, ids: np.ndarray) -> np.ndarray:
        """True at the tokens that begin and end turns, and at the newline after an end."""
        if self.chat_format != "chatml":
            return np.zeros(len(ids), bool)
        begin, end = (ids == self.tokenizer.special_ids[token] for token in (IM_START, IM_END))
        newline = self.tokenizer.token_id("\n")
        after_end = np.concatenate([[False], end[:-1]]) & (ids == newline)
        return begin | end | after_end

    def _cut(self, sources: Sequence[Any]) -> Sample:
        if not sources:
            return {}
        loaded = [load_image(source, allow_private_urls=self.allow_private_urls) for source in sources]
        return {"image_pixels": self.images.resized(loaded)}

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        found = [sample["image_pixels"] for sample in samples if "image_pixels" in sample]
        return {"pixel_values": self.images.normalize(np.concatenate(found))} if found else {}


def load_processor(folder: Path) -> Processor:
    """Read a published folder. Raises BadInputError for a missing, unreadable or contradictory file."""
    folder = Path(folder)
    config = config_from_dict(read_config(folder))
    tokenizer = QwenTokenizer.from_folder(folder)
    for place, token in enumerate((IMAGE_START, IMAGE_END, IMAGE_PAD)):
        found, expected = tokenizer.special_ids[token], config.image_start_id + place
        if found != expected:
            raise BadInputError(
                f"the tokenizer gives {token} the id {found}, visual.image_start_id in config.json asks for "
                f"{expected}"
            )
    files = {GENERATION_CONFIG: content} if (content := read_json(folder / GENERATION_CONFIG)) else {}
    chat_format = files.get(GENERATION_CONFIG, {}).get("chat_format", "chatml")
    if chat_format not in FORMATS:
        raise BadInputError(
            f"{folder / GENERATION_CONFIG} has chat_format {chat_format!r}, expected {' or '.join(FORMATS)}"
        )
    own = ChatTemplate.from_folder(folder, tokenizer.special_tokens)
    built_in = ChatTemplate(FORMATS[chat_format], origin=f"the {chat_format} template of Qwen-VL")
    return Processor(
        tokenizer=tokenizer,
        chat_template=own or built_in,
        config=config,
        files=files,
        chat_format=chat_format,
    )
