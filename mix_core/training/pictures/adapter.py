"""The adapter that a run with `lora` trains on a text-to-image model, in diffusers' layout.

A checkpoint holds `pytorch_lora_weights.safetensors`: names PART.MODULE.lora_A.weight, and in the header
PEFT's configuration of each part, so that diffusers' `load_lora_weights` gives the same pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from mix_core.errors import ConfigError, WeightsError
from mix_core.models.common.adapter_files import DOWN, UP
from mix_core.models.common.adapters import fingerprint
from mix_core.models.common.lora import (
    LinearMap,
    LoRASettings,
    LowRank,
    add_adapter,
    init_adapter,
    linear_maps,
    of_name,
)
from mix_core.models.common.tensor_files import Outgoing, read_header, write_file
from mix_core.models.common.weights import STORED_AS
from mix_core.models.diffusion.adapter_files import FILE, METADATA
from mix_core.training.lora import NAME, targets
from mix_core.training.pictures.folders import published_name
from mix_core.training.pictures.model import PictureLearner

if TYPE_CHECKING:
    from mix_core.config import RunConfig
    from mix_core.device import Activation

RANK = 4
"""Of the source scripts, whose alpha is the rank."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


class PictureAdapter:
    """What a run with `lora` puts on its model and saves in place of the model."""

    def __init__(self, model: PictureLearner, config: RunConfig, start: Path | None) -> None:
        """`start`: the checkpoint to go on from, if any.

        Raises:
            ConfigError: a target matches nothing.
            WeightsError: the adapter to start from is for another model, or has other sizes.
        """
        self.model, self.config = model, config
        rank = config.lora_rank if "lora_rank" in config.model_fields_set else RANK
        alpha = config.lora_alpha if "lora_alpha" in config.model_fields_set else float(rank)
        settings = LoRASettings(rank=rank, alpha=alpha, dropout=config.lora_dropout, rslora=config.use_rslora)
        chosen = self._chosen(config.lora_target_modules)
        self.fingerprint = fingerprint(chosen)
        add_adapter(model, chosen, NAME, settings)
        init_adapter(chosen, NAME, config.seed)
        self.maps = chosen
        source = start or config.lora_path
        if source is not None:
            self.load(Path(source))

    def _chosen(self, patterns: str | list[str] | None) -> list[LinearMap]:
        """The source scripts' maps: attention of the network, and of CLIP where it learns."""
        parts = {self.model.family.part}
        if self.config.train_text_encoder:
            parts |= {part for part in self.model.text_encoders() if part != "text_encoder_3"}
        maps = [one for one in linear_maps(self.model, published_name) if one.name.partition(".")[0] in parts]
        if patterns is not None:
            return targets(maps, patterns)
        names = (*_ATTENTION, *_JOINT, *_TEXT)
        return [one for one in maps if one.name.endswith(tuple(f".{name}" for name in names))]

    def round_bases(self, activation: Activation) -> int:
        raise ConfigError("weight_quantize_algo is of language models; leave it out")

    def check_learning(self, learned: Sequence[str]) -> None:
        """Nothing learns beside an adapter here."""
        if learned:
            raise ConfigError(f"{learned[0]} would learn as a whole beside an adapter; freeze it")

    @paddle.no_grad()
    def load(self, checkpoint: Path) -> None:
        """Take the values of a file of this layout. Raises WeightsError."""
        file = checkpoint if checkpoint.is_file() else checkpoint / FILE
        stored = read_header(file)
        wanted = {name: one for name, one in self._tensors().items()}
        if missing := sorted(wanted.keys() ^ stored.keys()):
            raise WeightsError(f"{file} and this run's adapter differ in {missing[0]}; do the keys fit?")
        for name, parameter in wanted.items():
            values = stored[name].read_float32().T
            if list(values.shape) != list(parameter.shape):
                raise WeightsError(
                    f"{file}: {name} has shape {stored[name].shape}, this run's {parameter.shape[::-1]}"
                )
            parameter.set_value(paddle.to_tensor(np.ascontiguousarray(values)).astype(parameter.dtype))

    def _tensors(self) -> dict[str, Any]:
        """The adapter's matrices by their names in files."""
        found = {}
        for one, low_rank in of_name(self.maps, NAME):
            found |= {f"{one.name}.{DOWN}": low_rank.down, f"{one.name}.{UP}": low_rank.up}
        return found

    def write(self, folder: Path, learned: Sequence[str]) -> None:
        """Fill a checkpoint's folder."""
        with self.model.published():
            tensors = [
                Outgoing(name, STORED_AS[one.dtype], tuple(one.shape[::-1]), partial(_turned, one))
                for name, one in self._tensors().items()
            ]
            write_file(folder / FILE, tensors, {"format": "pt", METADATA: json.dumps(self._metadata())})

    def _metadata(self) -> dict[str, Any]:
        """PEFT's configuration of each part, as diffusers keeps it."""
        parts: dict[str, list[tuple[LinearMap, LowRank]]] = {}
        for one, low_rank in of_name(self.maps, NAME):
            parts.setdefault(one.name.partition(".")[0], []).append((one, low_rank))
        found: dict[str, Any] = {}
        everything = [one.name for one in linear_maps(self.model, published_name)]
        for part, pairs in parts.items():
            names = [one.name.removeprefix(f"{part}.") for one, _ in pairs]
            others = {
                name.removeprefix(f"{part}.") for name in everything if name.startswith(f"{part}.")
            } - set(names)
            settings, rank = pairs[0][1].settings, pairs[0][1].settings.rank
            values = {
                "r": rank,
                "lora_alpha": settings.alpha if settings.alpha % 1 else int(settings.alpha),
                "lora_dropout": settings.dropout,
                "use_rslora": settings.rslora,
                "target_modules": _named(names, others),
            }
            found |= {f"{part}.{key}": value for key, value in values.items()}
        return found


def _named(names: Sequence[str], others: set[str]) -> list[str]:
    """Modules by the ends of their names, a number with what it is of; whole where others end so, too."""

    def end(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])

    ends = {end(name) for name in names}
    return sorted(names if ends & {end(name) for name in others} else ends)


def _turned(parameter: Any) -> np.ndarray:
    return np.ascontiguousarray(parameter.numpy().T)
