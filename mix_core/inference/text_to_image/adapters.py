"""Adapters on a text-to-image model: each on its network and text encoders, one of them in use.

Shapes: I input features, O output features, R rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from mix_core.errors import BadInputError, WeightsError
from mix_core.inference.text_to_image.model import PictureModel
from mix_core.models.common.adapter_files import DOWN, MAGNITUDE, UP
from mix_core.models.common.lora import (
    LinearMap,
    LoRASettings,
    LowRank,
    add_adapter,
    linear_maps,
    of_name,
    use_adapter,
)
from mix_core.models.diffusion.adapter_files import StoredPart, StoredPictureAdapter, flat_names
from mix_core.models.diffusion.single_file import original_unet_names

_INSIDE = "text_model."
"""What newer files leave out of a text encoder's names."""


class PictureAdapters:
    """Named adapters of one model, of which one is in use, or none."""

    def __init__(self, model: PictureModel) -> None:
        self.model = model
        self.maps = {part: linear_maps(layer) for part, layer in model.layers.items() if part != "vae"}
        self.names: list[str] = []
        self.used: str | None = None

    def add(self, name: str, adapter: StoredPictureAdapter) -> None:
        """Put an adapter on, and let it be in use. Raises WeightsError where it is for another model."""
        if name in self.names:
            raise BadInputError(f"two adapters are called {name}; give one another name, as NAME=FOLDER")
        chosen = {part: self._fitting(adapter, part) for part in adapter.parts}
        for part, maps in chosen.items():
            stored, layer = adapter.parts[part], self.model.layers[part]
            ranks = {one.name: stored.maps[module][DOWN].shape[0] for module, one in maps.items()}
            rank = next(iter(ranks.values()))
            settings = LoRASettings(rank=rank, alpha=rank, dora=stored.dora)
            add_adapter(layer, list(maps.values()), name, settings, ranks)
            of_path = {one.path: low_rank for one, low_rank in of_name(self.maps[part], name)}
            for module, one in maps.items():
                _fill(of_path[one.path], stored, module)
        self.names.append(name)
        self.use(name)

    def use(self, name: str | None) -> None:
        """Bring an adapter into use; None: the model alone. Raises BadInputError for an unknown name."""
        if name is not None and name not in self.names:
            raise BadInputError(
                f"no adapter is called {name!r}; there are: {', '.join(self.names) or 'none'}"
            )
        for part in self.maps:
            use_adapter(self.model.layers[part], name)
        self.used = name

    def _fitting(self, adapter: StoredPictureAdapter, part: str) -> dict[str, LinearMap]:
        """The maps that an adapter changes in a part, by the file's module. Raises WeightsError."""
        title = self.model.family.title
        made_for = f"{adapter.file} is an adapter for another model"
        if part not in self.maps:
            raise WeightsError(f"{made_for}: it changes a {part}, and {title} has {', '.join(self.maps)}")
        by_name = self._by_name(part, flat=adapter.parts[part].flat)
        found: dict[str, LinearMap] = {}
        for module, kinds in adapter.parts[part].maps.items():
            one = by_name.get(module) or by_name.get(_INSIDE + module)
            if one is None:
                raise WeightsError(
                    f"{made_for}: it changes {part}.{module}, which this {title} does not have"
                )
            inputs, outputs = kinds[DOWN].shape[1], kinds[UP].shape[0]
            if (inputs, outputs) != (one.layer.inputs, one.layer.outputs):
                raise WeightsError(
                    f"{made_for}: {part}.{module} maps {inputs} numbers to {outputs}, this {title}'s "
                    f"{one.layer.inputs} to {one.layer.outputs}"
                )
            found[module] = one
        return found

    def _by_name(self, part: str, *, flat: bool) -> dict[str, LinearMap]:
        """The maps of a part by the names that a file has for them; `flat`: kohya's."""
        by_name = {one.name: one for one in self.maps[part]}
        if not flat:
            return by_name
        original = original_unet_names(self.model.network.config) if part == "unet" else None
        return {name: by_name[module] for name, module in flat_names(by_name, original).items()}


@paddle.no_grad()
def _fill(low_rank: LowRank, stored: StoredPart, module: str) -> None:
    kinds = stored.maps[module]
    scale = np.float32(stored.scale(module) / low_rank.settings.scale)
    values: dict[Any, np.ndarray] = {
        low_rank.down: kinds[DOWN].read_float32().T,
        low_rank.up: kinds[UP].read_float32().T * scale,
    }
    if low_rank.magnitude is not None:
        values[low_rank.magnitude] = kinds[MAGNITUDE].read_float32().reshape(-1)
    for parameter, value in values.items():
        parameter.set_value(paddle.to_tensor(np.ascontiguousarray(value)).astype(parameter.dtype))
