"""`mix_core.load`: a model folder as something to ask. Importing this module imports no paddle.

Shapes: B batch, S sequence, P patches, n pictures, m videos, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mix_core.errors import BadInputError
from mix_core.inference.activating import activate_for, checked_dtype
from mix_core.inference.adapters import Adapters, put_on, read_adapters, templates_of
from mix_core.inference.conversation import conversation, is_batch
from mix_core.inference.sharing import load_shared, sharing_ranks
from mix_core.inference.streaming import TextStream, check_stop_strings, cut_at
from mix_core.inference.text_to_image.engine import PictureEngine, load_engine
from mix_core.inference.text_to_image.sources import is_picture_model
from mix_core.models.common.hub import resolve_model_folder
from mix_core.models.registry import family_of_folder, load_model

if TYPE_CHECKING:
    from mix_core.device import Activation
    from mix_core.models.common.adapters import AdapterSet
    from mix_core.models.common.chat_template import ChatTemplate
    from mix_core.models.registry import ModelFamily

WEIGHTS = ("int8",)
"""What weights can be rounded to beside the dtypes."""


@dataclass(frozen=True)
class Answer:
    """One conversation's answer."""

    text: str
    """Without special tokens, and without the stop string that ended it."""
    prompt_tokens: int
    """Pictures' tokens included."""
    new_tokens: int
    finish: str
    """`stop` at a stop token or string, `length` at max_new_tokens."""


class Engine:
    """A model, its processor and its device. Made by `load`."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        family: ModelFamily,
        folder: Path,
        activation: Activation,
        dtype: str,
        weights: str | None = None,
        adapters: AdapterSet | None = None,
        templates: Mapping[str | None, ChatTemplate | None] | None = None,
    ) -> None:
        """`templates`: as `templates_of` gives them."""
        self.model = model
        """The Paddle layer, in `eval()` mode."""
        self.processor = processor
        """Messages, pictures and videos to the model's inputs; its `tokenizer` turns tokens into text."""
        self.family, self.folder, self.activation, self.dtype = family, folder, activation, dtype
        self.weights = weights or dtype
        """What the decoder's matrices are kept in: `int8`, or the dtype."""
        self.stop_token_ids: tuple[int, ...] = tuple(processor.stop_token_ids)
        self._adapters = adapters
        self._templates = templates or {}
        self.set_adapter(self.adapter)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters there are."""
        return [] if self._adapters is None else list(self._adapters.names)

    @property
    def adapter(self) -> str | None:
        """The adapter in use."""
        return None if self._adapters is None else self._adapters.used

    def set_adapter(self, name: str | None) -> None:
        """Use this adapter, with the chat template that it learned under; None: the model alone.

        Raises BadInputError for a name that is not there.
        """
        if self._adapters is not None:
            self._adapters.use(name)
        elif name is not None:
            raise BadInputError(f"no adapter is called {name!r}: none was loaded; give lora to mix_core.load")
        if self._templates:
            self.processor.chat_template = self._templates.get(name, self._templates[None])

    def generate(
        self,
        messages: Any,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
    ) -> str | list[str]:
        """Answer a conversation with a text, or a list of conversations, in one batch, with a list of texts.

        Args:
            messages: a text; or messages, [{"role": "user", "content": text or parts}, ...]; or a list of
                either. See `mix_core.inference.conversation` for the places of pictures.
            images: paths, addresses, PIL images or arrays (H, W, 3) uint8; for a batch one list each.
            videos: paths, or {"video": path, "fps": 2.0}; for a batch one list each.
            temperature: 0 is greedy; more draws at random, the same for the same seed and conversation,
                whatever else is in the batch. top_k (0: all) and top_p (1: all) limit what is drawn from.
            stop: the answer ends before the first of these strings.
        Raises:
            BadInputError: pictures and places differ, a picture cannot be read, a value is out of range.
        """
        several = is_batch(messages)
        answers = self.answer(
            messages if several else [messages],
            images if several else [images],
            videos if several else [videos],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        return [answer.text for answer in answers] if several else answers[0].text

    def answer(
        self,
        conversations: Sequence[Any],
        images: Sequence[Sequence[Any] | None] | None = None,
        videos: Sequence[Sequence[Any] | None] | None = None,
        *,
        max_new_tokens: int = 512,
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> list[Answer]:
        """As `generate` for a batch, with the counts beside the texts."""
        from mix_core.inference.generation import generate

        if not conversations:
            return []
        stop = check_stop_strings(stop)
        batch = self._inputs(conversations, images, videos)
        with self._evaluating():
            rows = generate(
                self.model,
                batch,
                max_new_tokens=max_new_tokens,
                stop_token_ids=self.stop_token_ids,
                stop_strings=stop,
                decode=self.processor.tokenizer.decode,
                **sampling,
            )
        prompt_tokens_B = batch["attention_mask"].sum(axis=1)
        answers = []
        for ids, prompt_tokens in zip(rows, prompt_tokens_B):
            text, cut = cut_at(self.processor.tokenizer.decode(ids), stop)
            finish = "stop" if cut or ids[-1] in self.stop_token_ids else "length"
            answers.append(Answer(text, int(prompt_tokens), len(ids), finish))
        return answers

    def stream(
        self,
        messages: Any,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        max_new_tokens: int = 512,
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """As `generate` for one conversation, in pieces as they come; joined they are the same text."""
        from mix_core.inference.generation import token_steps

        stop = check_stop_strings(stop)
        batch = self._inputs([messages], [images], [videos])
        text = TextStream(self.processor.tokenizer.decode, stop)
        with self._evaluating():
            for (token,) in token_steps(
                self.model,
                batch,
                max_new_tokens=max_new_tokens,
                stop_token_ids=self.stop_token_ids,
                **sampling,
            ):
                if piece := text.feed(token):
                    yield piece
                if text.stopped:
                    break
        if piece := text.flush():
            yield piece

    def forward(self, input_ids: Any, attention_mask: Any = None, **inputs: Any) -> np.ndarray:
        """Logits (B, S, V) float32 of numpy inputs under transformers' names and shapes.

        Args:
            input_ids: (B, S) int64, with the pad token of a picture once for each of its cells.
            attention_mask: (B, S), 1 for tokens, 0 for padding on either side, whose logits mean nothing.
            inputs: what the family takes beside. Qwen2.5-VL: pixel_values (P, 3 * 2 * patch * patch) float32,
                image_grid_thw (n, 3) in patches, pixel_values_videos, video_grid_thw (m, 3), and
                second_per_grid_ts (m,) seconds.
        Raises:
            BadInputError: pad tokens and pictures differ.
        """
        import paddle

        with self._evaluating(), paddle.no_grad():
            logits_BSV = self.model(input_ids, attention_mask=attention_mask, **inputs)
            return logits_BSV.astype("float32").numpy()

    def seen_size(self, image: Any) -> tuple[int, int] | None:
        """(width, height) in pixels to which the processor brings a PIL image; None where it cuts it into
        tiles."""
        images = getattr(self.processor, "images", None)
        if not hasattr(images, "target_size"):
            return None
        height, width = images.target_size(image.height, image.width)
        return width, height

    def _inputs(
        self,
        conversations: Sequence[Any],
        images: Sequence[Sequence[Any] | None] | None,
        videos: Sequence[Sequence[Any] | None] | None,
    ) -> dict[str, np.ndarray]:
        """The model's inputs, padded on the left."""
        count = len(conversations)
        for name, given in (("images", images), ("videos", videos)):
            if given is not None and len(given) != count:
                raise BadInputError(
                    f"{name} has {len(given)} entries for {count} conversations; give one list each"
                )
        texts, all_images, all_videos = [], [], []
        rows = zip(conversations, images or [None] * count, videos or [None] * count)
        for messages, own_images, own_videos in rows:
            turns = conversation(messages, own_images or (), own_videos or ())
            texts.append(self.processor.apply_chat_template(turns, add_generation_prompt=True))
            found_images, found_videos = self.processor.find_visuals(turns)
            all_images += found_images
            all_videos += found_videos
        return self.processor(text=texts, images=all_images, videos=all_videos, padding_side="left")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            if training:
                self.model.train()


def load(
    path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    *,
    simulate: bool | None = None,
    kernels: Literal["auto", "reference"] | None = None,
    weights: Literal["int8"] | None = None,
    lora: Adapters | None = None,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
    tensor_parallel_degree: int = 1,
    allow_reexec: bool = False,
) -> Engine | PictureEngine:
    """Load a model folder, a training checkpoint or a hub name, ready to answer or to draw.

    A folder with model_index.json, or a safetensors file, draws: a `PictureEngine`; any other an `Engine`.

    Args:
        device: `cpu`, `NAME`, `NAME:INDEX` or `auto`; None keeps the active one, else MIX_DEVICE, else auto.
        dtype: dtype of the weights, one of DTYPES that the device computes in; None means float32.
        kernels: `reference` leaves the device's own kernels unused.
        weights: `int8` rounds the decoder's matrices and the head to 8 bits with a scale for each output:
            decoding is faster, weights take a quarter of the memory, activations stay float32. Answers are
            then near those of float32, not equal to them (docs/performance.md). None keeps `dtype`.
        lora: adapters in PEFT's layout: a folder, or names with folders; the first is in use, and
            `Engine.set_adapter` changes that. A run folder stands for its newest checkpoint. For a
            text-to-image model they are in diffusers' layout.
        vae, unet: of a text-to-image model: folders whose autoencoder and network take the place of its own.
        config: for one file with a text-to-image model: the folder that has its tokenizers.
        tensor_parallel_degree: the number of a launcher's ranks, which share every layer and ask alike.
        allow_reexec: for commands only, see `mix_core.device.activate`.
    Raises:
        BadInputError: the folder, a file in it or the dtype cannot be used.
        DeviceError: the device cannot be used, or paddle was imported before its settings were in place.
    """
    dtype = checked_dtype(dtype)
    _check_weights(weights, dtype, bool(lora))
    folder = Path(path) if is_picture_model(path) else resolve_model_folder(path, revision)
    how: dict[str, Any] = {"simulate": simulate, "kernels": kernels, "allow_reexec": allow_reexec}
    if is_picture_model(folder):
        if weights is not None:
            raise BadInputError(f"weights is {weights}, and {path} draws pictures; leave it out")
        return load_engine(folder, device, dtype, vae=vae, unet=unet, config=config, lora=lora, **how)
    for name, given in (("vae", vae), ("unet", unet), ("config", config)):
        if given is not None:
            raise BadInputError(f"{name} is given, and {path} is no text-to-image model; leave it out")
    family = family_of_folder(folder)
    stored = read_adapters(lora)
    processor = family.load_processor(folder)
    ranks = sharing_ranks(folder, tensor_parallel_degree, weights=weights)
    activation = activate_for(family.name, dtype, device, world_size=ranks, **how)
    if ranks > 1:
        model = load_shared(folder, ranks)
    else:
        model = load_model(folder)[2]
    adapters = put_on(model, family, stored) if stored else None
    if dtype != "float32":
        model.to(dtype=dtype)
    if weights == "int8":
        from mix_core.models.common.int8 import with_int8_weights

        with_int8_weights(model)
    model.eval()
    return Engine(
        model,
        processor,
        family=family,
        folder=folder,
        activation=activation,
        dtype=dtype,
        weights=weights,
        adapters=adapters,
        templates=templates_of(stored, processor),
    )


def _check_weights(weights: str | None, dtype: str, lora: bool) -> None:
    """Raise BadInputError for rounded weights that there are not, or that do not go with the rest."""
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise BadInputError(f"weights is {weights!r}, expected {', '.join(WEIGHTS)}, or nothing for {dtype}")
    if dtype != "float32":
        raise BadInputError(
            f"weights is {weights} and dtype is {dtype}; {weights} weights need dtype float32"
        )
    if lora:
        raise BadInputError(
            f"weights is {weights} and there is an adapter; merge it first (mix-core merge-lora), or leave "
            "weights out"
        )
