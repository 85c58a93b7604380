"""Messages, pictures and videos to InternVL2's inputs: token ids, tiles, labels. Imports no paddle.

Shapes: B batch, S sequence, N tiles.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...}, {"type": "image", "image": path, address or PIL image} and
{"type": "video", "video": path or frames, "fps": ... or "num_frames": ...}}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import ConfigError, DataError
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate
from mix_core.models.common.collate import Batch, Sample, collate_text
from mix_core.models.common.supervision import labels_of, learned_spans
from mix_core.models.common.tokenizer import Tokenizer, read_json
from mix_core.models.internvl2.chat_templates import TEMPLATES, as_text, template_of
from mix_core.models.internvl2.config import InternVL2Config, config_from_dict
from mix_core.models.internvl2.tiling import Tiler
from mix_core.models.internvl2.tokenizer import load_tokenizer
from mix_core.models.internvl2.vision_inputs import Expanded, VisionInputs
from mix_core.models.qwen2_5_vl.vision_inputs import find_visuals
from mix_core.models.registry import read_config

CONTEXT_TOKEN = "<IMG_CONTEXT>"
END_OF_TURN = "<|im_end|>"
GENERATION_CONFIG = "generation_config.json"
KEPT_FILES = (GENERATION_CONFIG, "preprocessor_config.json")
"""Files that are written again as they were; the second has no say (see `tiling.MEAN`)."""


@dataclass
class Processor:
    """Everything that stands between a user's data and the model's inputs."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate
    vision: VisionInputs
    config: InternVL2Config
    files: dict[str, dict[str, Any]]
    """Content of the folder's JSON files, written again by `save`."""
    skipped: int = 0
    """Samples that `encode` left out because they were too long."""

    def __post_init__(self) -> None:
        self.context_id = self.tokenizer.token_id(CONTEXT_TOKEN)

    @property
    def images(self) -> Tiler:
        return self.vision.tiler

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: the end of a turn, generation_config.json's and the tokenizer's."""
        listed = self.files.get(GENERATION_CONFIG, {}).get("eos_token_id")
        ids = listed if isinstance(listed, list) else [listed]
        every = (self.tokenizer.token_id(END_OF_TURN), *ids, self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(i for i in every if i is not None))

    def with_options(
        self,
        *,
        image_min_pixels: int | None = None,
        image_max_pixels: int | None = None,
        video_min_pixels: int | None = None,
        video_max_pixels: int | None = None,
        video_fps: float | None = None,
        video_min_frames: int | None = None,
        video_max_frames: int | None = None,
        allow_private_urls: bool | None = None,
        min_dynamic_patch: int | None = None,
        max_dynamic_patch: int | None = None,
        use_thumbnail: bool | None = None,
    ) -> Processor:
        """A copy with other limits; None leaves one as it is. Raises BadInputError where they contradict.

        A limit in pixels is one on the tiles of a picture, thumbnail aside: at most as many as fit in
        image_max_pixels, and at least as many as image_min_pixels needs.
        """
        if video_min_pixels is not None or video_max_pixels is not None:
            raise ConfigError(
                "video_min_pixels and video_max_pixels have no say over InternVL2, where each frame is one "
                f"tile of {self.images.side} x {self.images.side}; take them away, or limit the frames"
            )
        area = self.images.side**2
        if image_max_pixels is not None and max_dynamic_patch is None:
            max_dynamic_patch = max(1, image_max_pixels // area)
        if image_min_pixels is not None and min_dynamic_patch is None:
            min_dynamic_patch = -(-image_min_pixels // area)
        limits = _given(min_tiles=min_dynamic_patch, max_tiles=max_dynamic_patch, thumbnail=use_thumbnail)
        rules = _given(fps=video_fps, min_frames=video_min_frames, max_frames=video_max_frames)
        if video_fps is not None:
            rules |= {"num_frames": None, "middles": False}
        vision = replace(
            self.vision,
            tiler=replace(self.images, **limits),
            frames=replace(self.vision.frames, **rules),
            **_given(allow_private_urls=allow_private_urls),
        )
        return replace(self, vision=vision, skipped=0)

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages by the model's template, with one placeholder a picture or video."""
        return self.chat_template.render(as_text(messages), add_generation_prompt=add_generation_prompt)

    def find_visuals(self, messages: list[dict[str, Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
        """Pictures and videos that the messages name, in order, for `__call__`."""
        return find_visuals(messages)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
        fps: float | None = None,
        num_frames: int | None = None,
    ) -> Batch:
        """Inputs of the model for texts of `apply_chat_template`.

        ``images`` and ``videos`` stand in the order of their placeholders, all rows together (lists of images
        within the list are joined); a video may be {"video": source, "fps": ... or "num_frames": ...}.
        Returns input_ids and attention_mask (B, S) int64; with pictures or videos also pixel_values
        (N, 3, side, side) float32 and img_context_token_id (1,). Raises DataError where placeholders and
        pictures differ in number.
        """
        flat = [one for item in images or () for one in (item if isinstance(item, (list, tuple)) else [item])]
        texts = [text] if isinstance(text, str) else list(text)
        seen = self.vision.expand(texts, flat, videos or (), fps=fps, num_frames=num_frames)
        rows = [np.array(self.tokenizer.encode(row), np.int64) for row in seen.texts]
        repeats = self._repeats(rows, seen)
        expanded = [{"input_ids": np.repeat(row, times)} for row, times in zip(rows, repeats)]
        padded = collate_text(expanded, pad_token_id=self.tokenizer.pad_token_id, padding_side=padding_side)
        batch = {key: padded[key] for key in ("input_ids", "attention_mask")}
        return {**batch, **self._vision_arrays([seen.sample])}

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

        Keys: input_ids (S,) and labels (S,), int64; with pictures tiles (N, S, S, 3) uint8 and tile_counts.
        The ids are those that `__call__` gives for the same text. Learned are the assistant's texts with the
        end token after each; ``mask_history``: only the last one; ``train_on_prompt``: all but pictures'
        places. Raises DataError that begins with ``describe``, the sample's place in its data set.
        """
        if on_too_long not in ("error", "skip"):
            raise ConfigError(f"on_too_long is {on_too_long!r}, expected error or skip")
        try:
            text, spans = learned_spans(
                self.chat_template,
                as_text(messages),
                stop_texts=self._stop_texts(),
                train_on_prompt=train_on_prompt,
                mask_history=mask_history,
            )
            seen = self.vision.expand([text], *find_visuals(messages))
            (text,), (moved,) = seen.texts, seen.moved
            ids, offsets = self.tokenizer.encode_with_offsets(text)
            row = np.array(ids, np.int64)
            (repeats,) = self._repeats([row], seen)
            length = int(repeats.sum())
            if max_length is not None and length > max_length:
                if on_too_long == "skip":
                    self.skipped += 1
                    return None
                raise DataError(
                    f"it has {length} tokens ({length - len(ids)} of them added by pictures), max_length is "
                    f"{max_length}; raise max_length, allow fewer tiles or skip such rows"
                )
            spans = [(moved(start), moved(end)) for start, end in spans]
            labels = labels_of(row, offsets, text, spans, (self.context_id,))
        except DataError as error:
            raise DataError(f"{describe}: {error}") from error
        return {"input_ids": np.repeat(row, repeats), "labels": np.repeat(labels, repeats), **seen.sample}

    def collate(
        self, samples: Sequence[Sample], *, packing: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Samples of `encode` -> a batch for the model's `loss`.

        Text as in `collate_text`; vision as in `__call__`, its keys only where a sample has any.
        """
        batch = collate_text(
            samples, pad_token_id=self.tokenizer.pad_token_id, packing=packing, padding_side=padding_side
        )
        return {**batch, **self._vision_arrays(samples)}

    def save(self, folder: Path) -> None:
        """Write what `load_processor` reads; config.json, with the template's name, is the model's."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        if self.chat_template.source != TEMPLATES.get(self.config.template):
            (folder / TEMPLATE_FILE).write_text(self.chat_template.source, encoding="utf-8")
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _repeats(self, rows: list[np.ndarray], seen: Expanded) -> list[np.ndarray]:
        """How often each token stands in the input: <IMG_CONTEXT> once for each token of its tiles."""
        counts = seen.sample.get("tile_counts", np.zeros(0, np.int64)) * self.config.num_image_token
        marks = [row == self.context_id for row in rows]
        found = sum(int(mark.sum()) for mark in marks)
        if found != len(counts):
            raise DataError(
                f"the text holds {CONTEXT_TOKEN} {found} times, and {len(counts)} pictures and frames "
                "were given; write pictures as parts of a message, not as tokens in its text"
            )
        left = iter(counts)
        repeats = [np.ones(len(row), np.int64) for row in rows]
        for row, mark in zip(repeats, marks):
            row[mark] = [next(left) for _ in range(int(mark.sum()))]
        return repeats

    def _vision_arrays(self, samples: Sequence[Sample]) -> Batch:
        arrays = self.vision.arrays(samples)
        return arrays | {"img_context_token_id": np.array([self.context_id])} if arrays else {}

    def _stop_texts(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.decode([i], skip_special_tokens=False) for i in self.stop_token_ids)


def load_processor(folder: Path) -> Processor:
    """Read a published folder. Raises BadInputError for a missing, unreadable or contradictory file."""
    folder = Path(folder)
    config = config_from_dict(read_config(folder))
    tokenizer = load_tokenizer(folder)
    tiler = Tiler(
        side=config.image_size,
        min_tiles=config.min_dynamic_patch if config.dynamic_image_size else 1,
        max_tiles=config.max_dynamic_patch if config.dynamic_image_size else 1,
        thumbnail=config.use_thumbnail,
    )
    return Processor(
        tokenizer=tokenizer,
        chat_template=template_of(folder, config.template, tokenizer.special_tokens),
        vision=VisionInputs(tiler),
        config=config,
        files={name: content for name in KEPT_FILES if (content := read_json(folder / name))},
    )


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
