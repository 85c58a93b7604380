"""Messages, pictures and videos to InternVL2's inputs: token ids, tiles, labels. Imports no paddle.

Shapes: B batch, S sequence, N tiles.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...}, {"type": "image", "image": path, address or PIL image} and
{"type": "video", "video": path or frames, "fps": ... or "num_frames": ...}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mix_core.errors import ConfigError, DataError
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.common.processor import GENERATION_CONFIG, BaseProcessor, flattened, given
from mix_core.models.common.supervision import labels_of, learned_spans
from mix_core.models.common.tokenizer import read_json
from mix_core.models.internvl2.chat_templates import TEMPLATES, as_text, named_template, template_of
from mix_core.models.internvl2.config import InternVL2Config, config_from_dict
from mix_core.models.internvl2.options import KEYS, configured
from mix_core.models.internvl2.tiling import Tiler
from mix_core.models.internvl2.tokenizer import load_tokenizer
from mix_core.models.internvl2.vision_inputs import Expanded, VisionInputs
from mix_core.models.qwen2_5_vl.vision_inputs import find_visuals
from mix_core.models.registry import read_config

CONTEXT_TOKEN = "<IMG_CONTEXT>"
END_OF_TURN = "<|im_end|>"
KEPT_FILES = (GENERATION_CONFIG, "preprocessor_config.json")
"""Files that are written again as they were; the second has no say (see `tiling.MEAN`)."""


@dataclass
class Processor(BaseProcessor):
    vision: VisionInputs

    options = KEYS | {
        "image_min_pixels",
        "image_max_pixels",
        "video_fps",
        "video_min_frames",
        "video_max_frames",
        "allow_private_urls",
    }
    shorten = "raise max_length, allow fewer tiles or skip such rows"

    def __post_init__(self) -> None:
        self.context_id = self.tokenizer.token_id(CONTEXT_TOKEN)

    @property
    def images(self) -> Tiler:
        return self.vision.tiler

    @property
    def turn_ends(self) -> tuple[int, ...]:
        return (self.tokenizer.token_id(END_OF_TURN),)

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        return (self.context_id,)

    @property
    def other_options(self) -> str:
        side = self.images.side
        return f"in InternVL2 each frame is one tile of {side} x {side}; leave them out, or limit the frames"

    def changed(
        self,
        *,
        image_min_pixels: int | None = None,
        image_max_pixels: int | None = None,
        video_fps: float | None = None,
        video_min_frames: int | None = None,
        video_max_frames: int | None = None,
        allow_private_urls: bool | None = None,
        **of_config: Any,
    ) -> Processor:
        """A limit in pixels is one on the tiles of a picture, thumbnail aside: at most as many as fit in
        image_max_pixels, and at least as many as image_min_pixels needs. `of_config`: as `configured`.
        """
        config = configured(self.config, of_config)
        frames = given(fps=video_fps, min_frames=video_min_frames, max_frames=video_max_frames)
        if video_fps is not None:
            frames |= {"num_frames": None, "middles": False}
        vision = replace(
            self.vision,
            tiler=_tiler(config, image_min_pixels, image_max_pixels, of_config),
            frames=replace(self.vision.frames, **frames),
            **given(allow_private_urls=allow_private_urls),
        )
        template = self.chat_template
        if "conv_style" in of_config:
            template = named_template(config.template, self.tokenizer.special_tokens)
        return replace(self, vision=vision, config=config, chat_template=template)

    def with_tiles(self, most: int) -> Processor:
        configured(self.config, {"max_dynamic_patch": most})  # refuses what contradicts it
        tiler = replace(self.images, max_tiles=most, min_tiles=min(most, self.images.min_tiles))
        return replace(self, vision=replace(self.vision, tiler=tiler))

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages by the model's template, with one placeholder a picture or video."""
        return self.template.render(as_text(messages), add_generation_prompt=add_generation_prompt)

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
        texts = [text] if isinstance(text, str) else list(text)
        seen = self.vision.expand(texts, flattened(images), videos or (), fps=fps, num_frames=num_frames)
        rows = [np.array(self.tokenizer.encode(row), np.int64) for row in seen.texts]
        repeats = self._repeats(rows, seen)
        expanded = [np.repeat(row, times) for row, times in zip(rows, repeats)]
        return {**self.padded(expanded, padding_side), **self.arrays([seen.sample])}

    def sample_of(
        self,
        messages: list[dict[str, Any]],
        *,
        max_length: int | None,
        train_on_prompt: bool,
        mask_history: bool,
    ) -> Sample:
        """Of its own, with pictures: tiles (N, S, S, 3) uint8 and tile_counts."""
        text, spans = learned_spans(
            self.template,
            as_text(messages),
            stop_texts=self.stop_texts,
            train_on_prompt=train_on_prompt,
            mask_history=mask_history,
        )
        seen = self.vision.expand([text], *find_visuals(messages))
        (text,), (moved,) = seen.texts, seen.moved
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        row = np.array(ids, np.int64)
        (repeats,) = self._repeats([row], seen)
        self.check_length(int(repeats.sum()), len(ids), max_length)
        spans = [(moved(start), moved(end)) for start, end in spans]
        labels = labels_of(row, offsets, text, spans, self.visual_token_ids)
        return {"input_ids": np.repeat(row, repeats), "labels": np.repeat(labels, repeats), **seen.sample}

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        arrays = self.vision.arrays(samples)
        return arrays | {"img_context_token_id": np.array([self.context_id])} if arrays else {}

    @property
    def writes_template(self) -> bool:
        return self.template.source != TEMPLATES.get(self.config.template)

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


def load_processor(folder: Path) -> Processor:
    """Read a published folder. Raises BadInputError for a missing, unreadable or contradictory file."""
    folder = Path(folder)
    config = config_from_dict(read_config(folder))
    tokenizer = load_tokenizer(folder)
    return Processor(
        tokenizer=tokenizer,
        chat_template=template_of(folder, config.template, tokenizer.special_tokens),
        vision=VisionInputs(_tiler(config)),
        config=config,
        files={name: content for name in KEPT_FILES if (content := read_json(folder / name))},
    )


def _tiler(
    config: InternVL2Config,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    keys: Mapping[str, Any] = MappingProxyType({}),
) -> Tiler:
    """How the configuration cuts pictures, within limits on their area; `keys`: those given of the run.

    Raises ConfigError where a limit contradicts them, BadInputError where the limits contradict each other.
    """
    tiling = config.dynamic_image_size
    limits = {}
    for key, name, pixels in (
        ("min_dynamic_patch", "image_min_pixels", min_pixels),
        ("max_dynamic_patch", "image_max_pixels", max_pixels),
    ):
        if pixels is None:
            limits[key] = getattr(config, key) if tiling else 1
            continue
        if key in keys or not tiling:
            why = f"{key} too says how many" if tiling else "dynamic_image_size is false"
            raise ConfigError(f"{name} limits the tiles of a picture, and {why}; leave one of the keys out")
        area = config.image_size**2
        limits[key] = -(-pixels // area) if key == "min_dynamic_patch" else max(1, pixels // area)
    return Tiler(
        side=config.image_size,
        min_tiles=limits["min_dynamic_patch"],
        max_tiles=limits["max_dynamic_patch"],
        thumbnail=config.use_thumbnail,
        pad_to_square=config.pad2square and not tiling,
    )
