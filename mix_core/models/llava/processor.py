"""Messages and pictures to LLaVA's inputs: token ids, tiles, labels. Imports no paddle.

Shapes: B batch, S sequence, n pictures, I tiles of all pictures.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...} and {"type": "image", "image": path, address or PIL image}}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.data.images import load_image
from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate
from mix_core.models.common.collate import Batch, Sample, collate_text
from mix_core.models.common.supervision import labels_of
from mix_core.models.common.tokenizer import Tokenizer
from mix_core.models.llava.config import LlavaConfig
from mix_core.models.llava.folders import (
    GENERATION_CONFIG,
    IMAGE_CONFIG,
    IMAGE_TOKEN,
    PROCESSOR_CONFIG,
    read_processor_parts,
)
from mix_core.models.llava.geometry import rows_of, tile_count
from mix_core.models.llava.image_processor import ImageProcessor
from mix_core.models.llava.messages import as_parts, find_images, supervised_text


@dataclass
class Processor:
    """Everything that stands between a user's data and the model's inputs."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    images: ImageProcessor
    config: LlavaConfig
    generation: dict[str, Any]
    """Content of generation_config.json; {} if there is none."""
    allow_private_urls: bool = False
    skipped: int = 0
    """Samples that `encode` left out because they were too long."""

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
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: generation_config.json's eos_token_id and the tokenizer's end token."""
        listed = self.generation.get("eos_token_id")
        ids = listed if isinstance(listed, list) else [listed]
        return tuple(dict.fromkeys(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None))

    def with_options(self, *, allow_private_urls: bool | None = None, **limits: Any) -> Processor:
        """A copy that may fetch private addresses; None leaves it as it is.

        Raises BadInputError for limits of pixels and frames: LLaVA's tiles have one size, and it takes no
        video.
        """
        given = sorted(key for key, value in limits.items() if value is not None)
        if given:
            raise BadInputError(
                f"LLaVA has no {', '.join(given)}: its tiles have a side of {self.images.side} pixels, and "
                "it takes no video; take the key away"
            )
        if allow_private_urls is None:
            return replace(self, skipped=0)
        return replace(self, allow_private_urls=allow_private_urls, skipped=0)

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages in the folder's chat template; pictures as one pad token each."""
        return self._template().render(as_parts(messages), add_generation_prompt=add_generation_prompt)

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
        flat = [one for item in images or () for one in (item if isinstance(item, (list, tuple)) else [item])]
        sample = self._cut(flat)
        batch = self._arrays([sample])
        if self.config.anyres and flat:
            batch["pixel_values"] = self._by_picture(batch["pixel_values"], batch["image_sizes"])
        if text is None:
            return batch
        rows = [self.tokenizer.encode(row) for row in ([text] if isinstance(text, str) else text)]
        repeats = self._repeats(rows, sample)
        expanded = [{"input_ids": np.repeat(row, times)} for row, times in zip(rows, repeats)]
        padded = collate_text(expanded, pad_token_id=self.tokenizer.pad_token_id, padding_side=padding_side)
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"], **batch}

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

        Keys: input_ids (S,), labels (S,), position_ids (1, S), int64; with pictures image_tiles
        (I, side, side, 3) uint8 and image_sizes (n, 2). Learned are the assistant's texts with the end token
        after each; ``mask_history``: only the last one; ``train_on_prompt``: all but pictures' places. Raises
        DataError that begins with ``describe``, the sample's place in its data set.
        """
        if on_too_long not in ("error", "skip"):
            raise ConfigError(f"on_too_long is {on_too_long!r}, expected error or skip")
        try:
            messages = as_parts(messages)
            text, spans = supervised_text(
                self._template(),
                messages,
                end_token=self._end_token(),
                stop_texts=self._stop_texts(),
                train_on_prompt=train_on_prompt,
                mask_history=mask_history,
            )
            ids, offsets = self.tokenizer.encode_with_offsets(text)
            sample = self._cut(find_images(messages))
            (repeats,) = self._repeats([ids], sample)
            length = int(repeats.sum())
            if max_length is not None and length > max_length:
                if on_too_long == "skip":
                    self.skipped += 1
                    return None
                raise DataError(
                    f"it has {length} tokens ({length - len(ids)} of them added by pictures), max_length is "
                    f"{max_length}; raise max_length or skip such rows"
                )
            labels = labels_of(np.array(ids), offsets, text, spans, (self.config.image_token_id,))
            sample["input_ids"] = np.repeat(np.array(ids, np.int64), repeats)
            sample["labels"] = np.repeat(labels, repeats)
            sample["position_ids"] = np.arange(length)[None]
        except DataError as error:
            raise DataError(f"{describe}: {error}") from error
        return sample

    def collate(
        self, samples: Sequence[Sample], *, packing: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Samples of `encode` -> a batch for the model's `loss`.

        Text as in `collate_text`; pixel_values (I, 3, side, side) and, for LLaVA-1.6, image_sizes (n, 2),
        only where a sample has pictures.
        """
        batch = collate_text(
            samples, pad_token_id=self.tokenizer.pad_token_id, packing=packing, padding_side=padding_side
        )
        return {**batch, **self._arrays(samples)}

    def save(self, folder: Path) -> None:
        """Write the files that `load_processor` and transformers read; config.json belongs to the model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template.source, encoding="utf-8")
        name = "LlavaNextProcessor" if self.config.anyres else "LlavaProcessor"
        written: dict[str, dict[str, Any]] = {
            IMAGE_CONFIG: {"processor_class": name, **self.images.to_dict()},
            PROCESSOR_CONFIG: {
                "processor_class": name,
                "image_token": IMAGE_TOKEN,
                "num_additional_image_tokens": 1,  # the tower's class token
                "patch_size": self.config.vision.patch_size,
                "vision_feature_select_strategy": "full" if self.config.keep_class_token else "default",
            },
        }
        if self.generation:
            written[GENERATION_CONFIG] = self.generation
        for file, content in written.items():
            (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _template(self) -> ChatTemplate:
        if self.chat_template is None:
            raise BadInputError(
                f"the model folder has no chat template; expected {TEMPLATE_FILE}, or chat_template in "
                "chat_template.json, processor_config.json or tokenizer_config.json"
            )
        return self.chat_template

    def _end_token(self) -> str:
        end = self.tokenizer.special_tokens.get("eos_token")
        if end is None:
            raise BadInputError("tokenizer_config.json names no eos_token; training needs one to end answers")
        return end

    def _stop_texts(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.decode([i], skip_special_tokens=False) for i in self.stop_token_ids)

    def _cut(self, images: Sequence[Any]) -> Sample:
        """Tiles as bytes, and sizes of the pictures; nothing where there are none."""
        if not images:
            return {}
        loaded = [load_image(image, allow_private_urls=self.allow_private_urls) for image in images]
        return {
            "image_tiles": np.concatenate([self.images.tiles(image) for image in loaded]),
            "image_sizes": np.array([(image.height, image.width) for image in loaded], np.int64),
        }

    def _arrays(self, samples: Sequence[Sample]) -> Batch:
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
