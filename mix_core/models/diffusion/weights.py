"""Weights of diffusion networks between diffusers' folders and the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from mix_core.errors import WeightsError
from mix_core.models.common.layers import Linear
from mix_core.models.common.random import named_generator
from mix_core.models.common.tensor_files import FileNames, StoredTensor, read_folder
from mix_core.models.diffusion.network import STEM


def found_weights(
    folder: Path, variant: str | None, rename: Callable[[str], str], slots: Mapping[str, Any]
) -> dict[str, StoredTensor]:
    """All tensors of the folder by published name."""
    names = FileNames(STEM, variant)
    half = FileNames(STEM, "fp16")
    if variant is None and not _there(folder, names) and _there(folder, half):
        names = half
    return by_published_name(read_folder(folder, names), rename, slots, folder)


def _there(folder: Path, names: FileNames) -> bool:
    return any((folder / name).is_file() for name in (names.single, names.index))


def by_published_name(
    stored: Mapping[str, StoredTensor], rename: Callable[[str], str], slots: Mapping[str, Any], source: Path
) -> dict[str, StoredTensor]:
    """Tensors under their published names; a linear map that is stored as a convolution of 1x1 is one.

    Raises WeightsError where two have one name.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        ours = rename(name)
        if ours in found:
            raise WeightsError(f"{source} holds {ours} twice, under two of its names ({name} and another)")
        slot = slots.get(ours)
        if slot is not None and tensor.shape == (*slot.shape, 1, 1):
            tensor = replace(tensor, shape=slot.shape)
        found[ours] = tensor
    return found


def draw_weights(model: nn.Layer, seed: int, *, zeros: bool = True) -> None:
    """Random first values: matrices and kernels normal with variance 1 / (3 * inputs), biases 0, norms 1.

    With `zeros`, those whose names end as the model's `zero_at_first` are 0: every block begins as the
    identity: Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023 (AdaLN-Zero); Dhariwal and
    Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021 (the U-Net).
    """
    linear = {f"{path}.weight" for path, layer in model.named_sublayers() if isinstance(layer, Linear)}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if zeros and name.endswith(model.zero_at_first):
            values = np.zeros(parameter.shape, np.float32)
        else:
            inputs = parameter.shape[0] if name in linear else int(np.prod(parameter.shape[1:]))
            values = named_generator(seed, name).standard_normal(parameter.shape, dtype=np.float32)
            values *= np.float32((3 * inputs) ** -0.5)
        parameter.set_value(values)
