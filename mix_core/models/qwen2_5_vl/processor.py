"""Messages, pictures and videos to Qwen2.5-VL's inputs: token ids, patches, grids, labels. Imports no paddle.

Qwen2-VL takes the same ones, but for the seconds of a video's step.

Shapes: B batch, S sequence, P patches, n pictures, m videos, D = 3 * temporal_patch * patch * patch.
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

from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate
from mix_core.models.common.collate import Batch, Sample, collate_text
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

IMAGE_CONFIG = "preprocessor_config.json"
VIDEO_CONFIG = "video_preprocessor_config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass
class Processor:
    """Everything that stands between a user's data and the model's inputs."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    vision: VisionInputs
    config: QwenVLConfig
    files: dict[str, dict[str, Any]]
    """Content of the folder's JSON files, written again by `save`."""
    published_class: str = "Qwen2_5_VLProcessor"
    """Its name in transformers, for the files."""
    skipped: int = 0
    """Samples that `encode` left out because they were too long."""

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
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: generation_config.json's eos_token_id and the tokenizer's end token."""
        listed = self.files.get(GENERATION_CONFIG, {}).get("eos_token_id")
        ids = listed if isinstance(listed, list) else [listed]
        return tuple(dict.fromkeys(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None))

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Ids whose places hold pictures and videos: a sample is not cut among them."""
        return (self.vision.image_token_id, self.vision.video_token_id)

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
    ) -> Processor:
        """A copy with other limits; None leaves one as it is. Raises BadInputError where they contradict."""
        image = _given(min_pixels=image_min_pixels, max_pixels=image_max_pixels)
        frame = _given(min_pixels=video_min_pixels, max_pixels=video_max_pixels)
        rules = _given(fps=video_fps, min_frames=video_min_frames, max_frames=video_max_frames)
        videos = replace(
            self.videos,
            frames=replace(self.videos.frames, **frame),
            rules=replace(self.videos.rules, **rules),
        )
        vision = replace(
            self.vision,
            images=replace(self.images, **image),
            videos=videos,
            **_given(allow_private_urls=allow_private_urls),
        )
        return replace(self, vision=vision, skipped=0)

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Text of the messages in the folder's chat template; pictures and videos as one pad token each."""
        return self._template().render(messages, add_generation_prompt=add_generation_prompt)

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
        flat = [one for item in images or () for one in (item if isinstance(item, (list, tuple)) else [item])]
        sample = self.vision.cut(flat, videos or (), fps=fps, num_frames=num_frames)
        batch = self.vision.arrays([sample])
        if text is None:
            return batch
        rows = [self.tokenizer.encode(row) for row in ([text] if isinstance(text, str) else text)]
        repeats = self.vision.repeats(rows, sample)
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

        Keys: input_ids (S,), labels (S,), position_ids (3, S), int64; and those of `VisionInputs.cut`. The
        ids are those that `__call__` gives for the same text. Learned are the assistant's texts with the end
        token after each; ``mask_history``: only the last one; ``train_on_prompt``: all but pictures' places.
        Raises DataError that begins with ``describe``, the sample's place in its data set.
        """
        if on_too_long not in ("error", "skip"):
            raise ConfigError(f"on_too_long is {on_too_long!r}, expected error or skip")
        try:
            text, spans = learned_spans(
                self._template(),
                messages,
                stop_texts=self._stop_texts(),
                train_on_prompt=train_on_prompt,
                mask_history=mask_history,
            )
            ids, offsets = self.tokenizer.encode_with_offsets(text)
            sample = self.vision.cut(*find_visuals(messages))
            (repeats,) = self.vision.repeats([ids], sample)
            length = int(repeats.sum())
            if max_length is not None and length > max_length:
                if on_too_long == "skip":
                    self.skipped += 1
                    return None
                raise DataError(
                    f"it has {length} tokens ({length - len(ids)} of them added by pictures), max_length is "
                    f"{max_length}; raise max_length, lower the pixel limits or skip such rows"
                )
            unlearned = (self.vision.image_token_id, self.vision.video_token_id)
            labels = labels_of(np.array(ids), offsets, text, spans, unlearned)
            sample["input_ids"] = np.repeat(np.array(ids, np.int64), repeats)
            sample["labels"] = np.repeat(labels, repeats)
            sample["position_ids"] = self._positions(sample)
        except DataError as error:
            raise DataError(f"{describe}: {error}") from error
        return sample

    def collate(
        self, samples: Sequence[Sample], *, packing: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Samples of `encode` -> a batch for the model's `loss`.

        Text as in `collate_text`; vision as in `__call__`, its keys only where a sample has any.
        """
        batch = collate_text(
            samples, pad_token_id=self.tokenizer.pad_token_id, packing=packing, padding_side=padding_side
        )
        return {**batch, **self.vision.arrays(samples)}

    def save(self, folder: Path) -> None:
        """Write the files that `load_processor` and transformers read; config.json belongs to the model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template.source, encoding="utf-8")
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
        if GENERATION_CONFIG in self.files:
            written[GENERATION_CONFIG] = self.files[GENERATION_CONFIG]
        for name, content in written.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _template(self) -> ChatTemplate:
        if self.chat_template is None:
            raise BadInputError(
                f"the model folder has no chat template; expected {TEMPLATE_FILE}, or chat_template in "
                "chat_template.json or tokenizer_config.json"
            )
        return self.chat_template

    def _stop_texts(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.decode([i], skip_special_tokens=False) for i in self.stop_token_ids)

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


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
