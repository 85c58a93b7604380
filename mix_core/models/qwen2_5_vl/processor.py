"""Messages, pictures and videos to Qwen2.5-VL's inputs: token ids, patches, grids, labels. Imports no paddle.

Qwen2-VL takes the same ones, but for the seconds of a video's step.

Shapes: B batch, S sequence, P patches, n pictures, m videos, D = 3 * temporal_patch * patch * patch.
Messages are Hugging Face chat dicts: {"role": "system" | "user" | "assistant", "content": text or a list of
{"type": "text", "text": ...}, {"type": "image", "image": path, address or PIL image} and
{"type": "video", "video": path or frames, "fps": ... or "num_frames": ...}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mix_core.errors import BadInputError
from mix_core.models.common.chat_template import ChatTemplate
from mix_core.models.common.collate import Batch, Sample
from mix_core.models.common.processor import GENERATION_CONFIG, BaseProcessor, flattened, given
from mix_core.models.common.supervision import labels_of, learned_spans
from mix_core.models.common.tokenizer import Tokenizer, read_json
from mix_core.models.qwen2_5_vl.config import config_from_dict
from mix_core.models.qwen2_5_vl.geometry import as_grids, mrope_positions
from mix_core.models.qwen2_5_vl.image_processor import ImageProcessor
from mix_core.models.qwen2_5_vl.text_config import QwenVLConfig
from mix_core.models.qwen2_5_vl.video_processor import VideoProcessor
from mix_core.models.qwen2_5_vl.vision_inputs import VisionInputs, find_visuals
from mix_core.models.registry import read_config

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"

PIXELS = ("image_min_pixels", "image_max_pixels", "video_min_pixels", "video_max_pixels")
SIDES = ("image_resolution", "video_resolution")
FRAMES = ("video_fps", "video_min_frames", "video_max_frames")
IMAGE_CONFIG = "preprocessor_config.json"
VIDEO_CONFIG = "video_preprocessor_config.json"


@dataclass
class Processor(BaseProcessor):
    vision: VisionInputs
    published_class: str = "Qwen2_5_VLProcessor"
    """Its name in transformers, for the files."""

    options = frozenset({*PIXELS, *SIDES, *FRAMES, "allow_private_urls"})
    shorten = "raise max_length, lower the pixel limits or skip such rows"

    def __post_init__(self) -> None:
        images, model = self.vision.images, self.config.vision
        for name, here, there in (
            ("patch_size", images.patch_size, model.patch_size),
            ("temporal_patch_size", images.temporal_patch_size, model.temporal_patch_size),
            ("merge_size", images.merge_size, model.spatial_merge_size),
        ):
            if here != there:
                raise BadInputError(
                    f"{IMAGE_CONFIG} has {name} {here}, but the model in config.json has {there}"
                )

    @property
    def images(self) -> ImageProcessor:
        return self.vision.images

    @property
    def videos(self) -> VideoProcessor:
        return self.vision.videos

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        return (self.vision.image_token_id, self.vision.video_token_id)

    @property
    def other_options(self) -> str:
        return (
            "Qwen2-VL and Qwen2.5-VL keep a picture's ratio of sides, within image_min_pixels and "
            "image_max_pixels; leave them out"
        )

    def changed(
        self,
        *,
        image_min_pixels: int | None = None,
        image_max_pixels: int | None = None,
        video_min_pixels: int | None = None,
        video_max_pixels: int | None = None,
        image_resolution: int | None = None,
        video_resolution: int | None = None,
        video_fps: float | None = None,
        video_min_frames: int | None = None,
        video_max_frames: int | None = None,
        allow_private_urls: bool | None = None,
    ) -> Processor:
        image = given(min_pixels=image_min_pixels, max_pixels=image_max_pixels, longest_side=image_resolution)
        frame = given(min_pixels=video_min_pixels, max_pixels=video_max_pixels, longest_side=video_resolution)
        rules = given(fps=video_fps, min_frames=video_min_frames, max_frames=video_max_frames)
        videos = replace(
            self.videos,
            frames=replace(self.videos.frames, **frame),
            rules=replace(self.videos.rules, **rules),
        )
        vision = replace(
            self.vision,
            images=replace(self.images, **image),
            videos=videos,
            **given(allow_private_urls=allow_private_urls),
        )
        return replace(self, vision=vision)

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages in the folder's chat template; pictures and videos as one pad token each."""
        return self.template.render(messages, add_generation_prompt=add_generation_prompt)

    def find_visuals(self, messages: list[dict[str, Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
        """Pictures and videos that the messages name, in order, for `__call__`."""
        return find_visuals(messages)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
        fps: float | None = None,
        num_frames: int | None = None,
    ) -> Batch:
        """Inputs of the model, under transformers' names.

        ``images`` and ``videos`` stand in the order of the pad tokens in ``text``, all rows together (lists
        of images within the list are joined); a video may be {"video": source, "fps": ...}.
        Returns input_ids and attention_mask (B, S) int64; where given, pixel_values (P, D) float32,
        image_grid_thw (n, 3) int64, pixel_values_videos (P, D) float32, video_grid_thw (m, 3) int64 and
        second_per_grid_ts (m,) float32. Raises DataError where pad tokens and pictures differ in number.
        """
        sample = self.vision.cut(flattened(images), videos or (), fps=fps, num_frames=num_frames)
        batch = self.vision.arrays([sample])
        if text is None:
            return batch
        rows = [self.tokenizer.encode(row) for row in ([text] if isinstance(text, str) else text)]
        repeats = self.vision.repeats(rows, sample)
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
        """Of its own: position_ids (3, S) int64, and the keys of `VisionInputs.cut`."""
        text, spans = learned_spans(
            self.template,
            messages,
            stop_texts=self.stop_texts,
            train_on_prompt=train_on_prompt,
            mask_history=mask_history,
        )
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        sample = self.vision.cut(*find_visuals(messages))
        (repeats,) = self.vision.repeats([ids], sample)
        self.check_length(int(repeats.sum()), len(ids), max_length)
        labels = labels_of(np.array(ids), offsets, text, spans, self.visual_token_ids)
        sample["input_ids"] = np.repeat(np.array(ids, np.int64), repeats)
        sample["labels"] = np.repeat(labels, repeats)
        sample["position_ids"] = self._positions(sample)
        return sample

    def arrays(self, samples: Sequence[Sample]) -> Batch:
        return self.vision.arrays(samples)

    def files_to_save(self) -> dict[str, dict[str, Any]]:
        written = {
            IMAGE_CONFIG: {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": self.published_class,
                **self.files[IMAGE_CONFIG],
                **self.images.to_dict(),
            },
            VIDEO_CONFIG: {
                "video_processor_type": "Qwen2VLVideoProcessor",
                "processor_class": self.published_class,
                **self.files.get(VIDEO_CONFIG, {}),
                **self.videos.to_dict(),
            },
        }
        return {**self.files, **written}

    def _positions(self, sample: Sample) -> np.ndarray:
        return mrope_positions(
            sample["input_ids"],
            as_grids(sample.get("image_grid_thw")),
            as_grids(sample.get("video_grid_thw")),
            [float(seconds) for seconds in sample.get("second_per_grid_ts", ())],
            image_token_id=self.vision.image_token_id,
            video_token_id=self.vision.video_token_id,
            merge=self.images.merge_size,
            tokens_per_second=self.config.vision.tokens_per_second,
        )


def load_processor(folder: Path) -> Processor:
    """Read a published folder of Qwen2.5-VL. Raises as `read_processor`."""
    return read_processor(folder, config_from_dict(read_config(folder)))


def read_processor(folder: Path, config: QwenVLConfig, **fields: Any) -> Processor:
    """Read a folder's processor; ``fields`` are more of `Processor`'s.

    Raises BadInputError for a missing, unreadable or contradictory file.

    Settings of pictures and videos come from processor_config.json (transformers 5), else from
    preprocessor_config.json and video_preprocessor_config.json; without the latter, videos have the settings
    of pictures, as in transformers.
    """
    folder = Path(folder)
    names = (IMAGE_CONFIG, VIDEO_CONFIG, GENERATION_CONFIG)
    files = {name: content for name in names if (content := read_json(folder / name))}
    nested = read_json(folder / "processor_config.json")
    for key, name in (("image_processor", IMAGE_CONFIG), ("video_processor", VIDEO_CONFIG)):
        if isinstance(nested.get(key), dict):
            files[name] = nested[key]
    if IMAGE_CONFIG not in files:
        raise BadInputError(f"{folder} has no {IMAGE_CONFIG}; the processor needs it")
    tokenizer = Tokenizer.from_folder(folder)
    vision = VisionInputs(
        images=ImageProcessor.from_dict(files[IMAGE_CONFIG]),
        videos=VideoProcessor.from_dict(files.get(VIDEO_CONFIG, files[IMAGE_CONFIG])),
        image_token_id=_checked_id(tokenizer, IMAGE_TOKEN, config.image_token_id),
        video_token_id=_checked_id(tokenizer, VIDEO_TOKEN, config.video_token_id),
        timed=config.vision.tokens_per_second is not None,
    )
    template = ChatTemplate.from_folder(folder, tokenizer.special_tokens)
    return Processor(
        tokenizer=tokenizer, chat_template=template, vision=vision, config=config, files=files, **fields
    )


def _checked_id(tokenizer: Tokenizer, token: str, expected: int) -> int:
    found = tokenizer.token_id(token)
    if found != expected:
        raise BadInputError(f"the tokenizer gives {token} the id {found}, config.json says {expected}")
    return found
