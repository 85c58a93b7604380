"""Weights of SD3's transformer: the model's parameters, and the table of positions that files store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from mix_core.errors import WeightsError
from mix_core.models.common.tensor_files import StoredTensor
from mix_core.models.common.weights import slots_of
from mix_core.models.mmdit.config import MMDiTConfig
from mix_core.models.mmdit.positions import table

ROUNDING = {"F64": 1e-4, "F32": 1e-4, "F16": 1e-3, "BF16": 8e-3}
"""How far a stored table may be from the formula: angles up to 64 in float32, then the dtype's rounding."""


@dataclass(frozen=True)
class PositionSlot:
    """The table of positions, which is computed: read, it is compared, and written, it is made."""

    config: MMDiTConfig
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.config.pos_embed_max_size**2, self.config.width)

    def fill(self, stored: StoredTensor) -> None:
        """Raises WeightsError where the file's table is another one."""
        side = self.config.pos_embed_max_size
        for row in range(0, side, max(1, side // 8)):
            found = StoredTensor(
                stored.file,
                stored.dtype,
                (side, self.config.width),
                stored.start + row * side * self.config.width * _BYTES[stored.dtype],
            ).read_float32()
            away = float(np.abs(found - table(self.config, row, 0, 1, side)).max())
            if not away <= ROUNDING[stored.dtype]:
                raise WeightsError(
                    f"pos_embed.pos_embed in {stored.file} is {away:.2g} away from the sines and cosines of "
                    f"the positions; does sample_size = {self.config.sample_size} fit the weights?"
                )

    def values(self) -> np.ndarray:
        side = self.config.pos_embed_max_size
        values = table(self.config, 0, 0, side, side)[None]
        if self.dtype == paddle.float32:
            return values
        return np.asarray(paddle.to_tensor(values).astype(self.dtype).numpy())


_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def slots(model: Any) -> dict[str, Any]:
    """The model's parameters by published name, and the table."""
    config: MMDiTConfig = model.config
    patch = (config.width, config.in_channels, config.patch_size, config.patch_size)
    found = slots_of(model, {"pos_embed.proj.weight": patch})
    table_slot = PositionSlot(config, model.pos_embed.proj.weight.dtype)
    return {**found, "pos_embed.pos_embed": table_slot}
