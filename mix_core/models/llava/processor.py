"""Messages and pictures to LLaVA's inputs: token ids, tiles, labels. Imports no paddle.

Shapes: B batch, S sequence, n pictures, I tiles of all pictures.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...} and {"type": "image", "image": path, address or PIL image}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.data.images import load_image
from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.common.processor import BaseProcessor, flattened, given
from mix_core.models.common.supervision import labels_of
from mix_core.models.llava.folders import (
    IMAGE_CONFIG,
    IMAGE_TOKEN,
    PROCESSOR_CONFIG,
    read_processor_parts,
)
from mix_core.models.llava.geometry import rows_of, tile_count
from mix_core.models.llava.image_processor import ImageProcessor
from mix_core.models.llava.messages import as_parts, find_images, supervised_text


@dataclass
class Processor(BaseProcessor):
    images: ImageProcessor
    allow_private_urls: bool = False

    options = frozenset({"allow_private_urls", "pad2square"})

    def __post_init__(self) -> None:
        here = self.images.side, self.images.pinpoints
        there = self.config.vision.image_size, self.config.pinpoints
        if here != there:
            raise BadInputError(
                f"{IMAGE_CONFIG} has tiles of {here[0]} pixels and image_grid_pinpoints {here[1]}, but "
                f"config.json has {there[0]} and {there[1]}"
            )
        found, expected = self.tokenizer.token_id(IMAGE_TOKEN), self.config.image_token_id
        if found != expected:
            raise BadInputError(
                f"the tokenizer gives {IMAGE_TOKEN} the id {found}, config.json says {expected}"
            )

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        return (self.config.image_token_id,)

    @property
    def other_options(self) -> str:
        side = self.images.side
        return f"LLaVA's tiles have a side of {side} pixels, and it takes no video; leave them out"

    def changed(self, *, allow_private_urls: bool | None = None, pad2square: bool | None = None) -> Processor:
        """Raises ConfigError for pad2square where pictures are cut into tiles (LLaVA-1.6)."""
        if pad2square and self.config.anyres:
            raise ConfigError(
                "pad2square is true, but this LLaVA fits every picture into tiles with bars of its own; "
                "leave the key out"
            )
        images = replace(self.images, **given(pad_to_square=pad2square))
        return replace(self, images=images, **given(allow_private_urls=allow_private_urls))

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages in the folder's chat template; pictures as one pad token each."""
        return self.template.render(as_parts(messages), add_generation_prompt=add_generation_prompt)

    def find_visuals(self, messages: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
        """Pictures that the messages name, in order, for `__call__`; and no videos."""
        return find_images(as_parts(messages)), []

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
    ) -> Batch:
        """Inputs of the model, under transformers' names.

        ``images`` stand in the order of the pad tokens in ``text``, all rows together (lists of images within
        the list are joined). Returns input_ids and attention_mask (B, S) int64; where pictures are given,
        pixel_values float32, (n, 3, side, side), and for LLaVA-1.6 (n, most tiles, 3, side, side) with
        image_sizes (n, 2) int64. Raises DataError where pad tokens and pictures differ in number, and for a
        video.
        """
        if videos:
            raise DataError(f"{len(videos)} video(s) were given; LLaVA takes text and images")
        flat = flattened(images)
        sample = self._cut(flat)
        batch = self.arrays([sample])
        if self.config.anyres and flat:
            batch["pixel_values"] = self._by_picture(batch["pixel_values"], batch["image_sizes"])
        if text is None:
            return batch
        rows = [self.tokenizer.encode(row) for row in ([text] if isinstance(text, str) else text)]
        repeats = self._repeats(rows, sample)
        expanded = [np.repeat(row, times) for row, times in zip(rows, repeats)]
        return {**self.padded(expanded, padding_side), **batch}

    def sample_of(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        train_on_prompt: bool,
        mask_history: bool,
    ) -> Sample:
        """Of its own: position_ids (1, S) int64; with pictures image_tiles (I, side, side, 3) uint8 and
        image_sizes (n, 2)."""
        messages = as_parts(messages)
        text, spans = supervised_text(
            self.template,
            messages,
            end_token=self._end_token(),
            stop_texts=self.stop_texts,
            train_on_prompt=train_on_prompt,
            mask_history=mask_history,
        )
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        sample = self._cut(find_images(messages))
        (repeats,) = self._repeats([ids], sample)
        length = int(repeats.sum())
        self.check_length(length, len(ids), max_length)
        labels = labels_of(np.array(ids), offsets, text, spans, self.visual_token_ids)
        sample["input_ids"] = np.repeat(np.array(ids, np.int64), repeats)
        sample["labels"] = np.repeat(labels, repeats)
        sample["position_ids"] = np.arange(length)[None]
        return sample

    def files_to_save(self) -> dict[str, dict[str, Any]]:
        name = "LlavaNextProcessor" if self.config.anyres else "LlavaProcessor"
        return {
            **self.files,
            IMAGE_CONFIG: {"processor_class": name, **self.images.to_dict()},
            PROCESSOR_CONFIG: {
                "processor_class": name,
                "image_token": IMAGE_TOKEN,
                "num_additional_image_tokens": 1,  # the tower's class token
                "patch_size": self.config.vision.patch_size,
                "vision_feature_select_strategy": "full" if self.config.keep_class_token else "default",
            },
        }

    def _end_token(self) -> str:
        end = self.tokenizer.special_tokens.get("eos_token")
        if end is None:
            raise BadInputError("tokenizer_config.json names no eos_token; training needs one to end answers")
        return end

    def _cut(self, images: Sequence[Any]) -> Sample:
        """Tiles as bytes, and sizes of the pictures; nothing where there are none."""
        if not images:
            return {}
        loaded = [load_image(image, allow_private_urls=self.allow_private_urls) for image in images]
        return {
            "image_tiles": np.concatenate([self.images.tiles(image) for image in loaded]),
            "image_sizes": np.array([(image.height, image.width) for image in loaded], np.int64),
        }

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        found = [sample for sample in samples if "image_tiles" in sample]
        if not found:
            return {}
        tiles = np.concatenate([sample["image_tiles"] for sample in found])
        batch = {"pixel_values": self.images.normalize(tiles)}
        if self.config.anyres:
            batch["image_sizes"] = np.concatenate([sample["image_sizes"] for sample in found])
        return batch

    def _by_picture(self, tiles: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(I, 3, side, side) -> (n, most tiles, 3, side, side), with zeros after a picture's last tile."""
        counts = [tile_count(tuple(size), self.images.pinpoints, self.images.side) for size in sizes.tolist()]
        out = np.zeros((len(counts), max(counts), *tiles.shape[1:]), np.float32)
        for i, own in enumerate(np.split(tiles, np.cumsum(counts)[:-1])):
            out[i, : len(own)] = own
        return out

    def _repeats(self, rows: Sequence[list[int]], sample: Sample) -> list[np.ndarray]:
        """How often each token of ``rows`` stands in the model's input: pad tokens, once for each row."""
        counts = [self._rows_of(tuple(size)) for size in sample.get("image_sizes", np.zeros((0, 2))).tolist()]
        image = self.config.image_token_id
        places = sum(row.count(image) for row in rows)
        if places != len(counts):
            raise DataError(
                f"the text has {places} image placeholder(s) and {len(counts)} image(s) were given; "
                "the numbers must be equal"
            )
        repeats, left = [], iter(counts)
        for row in rows:
            repeats.append(np.array([next(left) if token == image else 1 for token in row], np.int64))
        return repeats

    def _rows_of(self, size: tuple[int, int]) -> int:
        """Rows that a picture of this height and width gives the decoder."""
        if self.config.pinpoints is None:
            return self.config.tile_rows
        return len(rows_of(size, self.config.pinpoints, self.images.side, self.config.vision.grid))


def load_processor(folder: Path) -> Processor:
    """Read a folder of llava-hf or of the authors. Raises BadInputError for a missing or wrong file."""
    return Processor(**read_processor_parts(Path(folder)))
