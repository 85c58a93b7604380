"""Weights of diffusion networks between diffusers' folders and the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mix_core.errors import WeightsError
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
