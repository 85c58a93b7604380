"""Adapters of text-to-image models in diffusers' layout, `pytorch_lora_weights.safetensors`, and in kohya's.

A name is PART.MODULE.KIND: the part is the network's or a text encoder's sub-folder, the kind PEFT's
(`lora_A.weight`, `lora_B.weight`, `lora_magnitude_vector`) or an older one (`lora.down.weight`,
`lora_linear_layer.down.weight`, `processor.to_q_lora.down.weight`). The header may hold PEFT's configuration
of each part. Without it, and without numbers called `alpha`, an adapter has the scale 1.

kohya's sd-scripts write `lora_unet_MODULE`, `lora_te_MODULE` (SDXL: `lora_te1_`, `lora_te2_`) with
`.lora_down.weight`, `.lora_up.weight` and `.alpha`, and MODULE with underscores for dots: diffusers' name or,
in SDXL, the original one. Only the model can tell which module that is (`flat_names`).

This module imports no paddle. Shapes: I input features, O output features, R rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mix_core.errors import WeightsError
from mix_core.models.common.adapter_files import DOWN, MAGNITUDE, UP
from mix_core.models.common.tensor_files import StoredTensor, read_header, read_metadata

FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")

_KIND = re.compile(
    r"(?P<module>.+?)(?:\.|_)(?:"
    r"(?:lora|lora_linear_layer)\.(?P<old>down|up)\.weight"
    r"|(?P<new>lora_A|lora_B)(?:\.default)?\.weight"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.weight)?)"
    r"|(?P<alpha>(?:network_)?alpha)"
    r")"
)
_FLAT = re.compile(
    r"lora_(?P<part>unet|te1?|te2)_(?P<module>[^.]+)\.(?P<kind>lora_down\.weight|lora_up\.weight|alpha)"
)
_FLAT_PARTS = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
_OLDEST = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Of a text encoder's maps, in the oldest files."""


@dataclass(frozen=True)
class StoredPart:
    """An adapter of one part."""

    maps: dict[str, dict[str, StoredTensor]]
    """Module -> DOWN (R, I), UP (O, R) and, for DoRA, MAGNITUDE (O,)."""
    alphas: dict[str, float]
    """Of modules for which the file has a number."""
    config: dict[str, Any]
    """PEFT's configuration, {} where the header has none."""
    flat: bool = False
    """Whether modules bear kohya's names, with underscores for dots."""

    @property
    def dora(self) -> bool:
        return any(MAGNITUDE in parts for parts in self.maps.values())

    def scale(self, module: str) -> float:
        """What the product of a map's two matrices is multiplied by."""
        rank = self.maps[module][DOWN].shape[0]
        alpha = self.alphas.get(module)
        if alpha is None and self.config:
            alpha = float(self.config.get("lora_alpha") or rank)
            for pattern, own in (self.config.get("alpha_pattern") or {}).items():
                alpha = float(own) if re.match(rf"(.*\.)?({pattern})$", module) else alpha
        if alpha is None:
            return 1.0
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))


@dataclass(frozen=True)
class StoredPictureAdapter:
    """A file, looked through; its numbers are read when they are asked for."""

    file: Path
    parts: dict[str, StoredPart]


def adapter_file(path: str | Path) -> Path:
    """A file, the one in a folder, or that of a run's newest checkpoint. Raises WeightsError."""
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if (path / FILE).is_file():
        return path / FILE
    steps = {
        int(number): found
        for found in path.glob(f"checkpoint-*/{FILE}")
        if (number := found.parent.name.removeprefix("checkpoint-")).isdigit()
    }
    if not steps:
        raise WeightsError(f"{path} is no adapter of a text-to-image model; expected a folder with {FILE}")
    return steps[max(steps)]


def read_picture_adapter(path: str | Path) -> StoredPictureAdapter:
    """Look through an adapter. Raises WeightsError for what is none, or has parts that are not built."""
    file = adapter_file(path)
    maps: dict[str, dict[str, dict[str, StoredTensor]]] = {}
    alphas: dict[str, dict[str, float]] = {}
    header = read_header(file)
    flat = any(_FLAT.fullmatch(name) for name in header)
    for name, tensor in header.items():
        found = _flat_name(name) if flat else _dotted_name(name)
        if found is None:
            raise WeightsError(
                f"{file} holds {name}; expected names as diffusers writes them, {'., '.join(PARTS[:3])}. and "
                "a linear map's lora_A.weight or lora_B.weight, or kohya's, lora_unet_ and "
                ".lora_down.weight, .lora_up.weight or .alpha"
            )
        part, module, kind = found
        if kind is None:
            alphas.setdefault(part, {})[module] = float(tensor.read_float32().reshape(-1)[0])
        else:
            maps.setdefault(part, {}).setdefault(module, {})[kind] = _two_axes(name, kind, tensor)
    if not maps:
        raise WeightsError(f"{file} holds no adapter")
    configs = _configs(file)
    parts = {
        part: StoredPart(own, alphas.get(part, {}), configs.get(part, {}), flat) for part, own in maps.items()
    }
    for part, one in parts.items():
        _check(file, part, one)
    return StoredPictureAdapter(file, parts)


def _dotted_name(name: str) -> tuple[str, str, str | None] | None:
    """Part, module and kind (None: its alpha) by diffusers' names; None for any other."""
    part, _, inner = name.partition(".")
    found = _KIND.fullmatch(inner.replace(".processor.", "."))
    if part not in PARTS or found is None:
        return None
    kind = DOWN if found["old"] == "down" or found["new"] == "lora_A" else UP
    kind = MAGNITUDE if found["magnitude"] else kind
    return part, _module(part, found["module"]), None if found["alpha"] else kind


def _flat_name(name: str) -> tuple[str, str, str | None] | None:
    """The same by kohya's names; the module is as it stands there."""
    found = _FLAT.fullmatch(name)
    if found is None:
        return None
    kind = {"lora_down.weight": DOWN, "lora_up.weight": UP, "alpha": None}[found["kind"]]
    return _FLAT_PARTS[found["part"]], found["module"], kind


def flat_names(modules: Iterable[str], original: Callable[[str], str] | None = None) -> dict[str, str]:
    """kohya's name -> the module's, of modules of one part.

    `original`: the authors' name of a parameter, where files may have that.
    """
    found = {}
    for module in modules:
        found[module.replace(".", "_")] = module
        if original is not None:
            found[original(f"{module}.weight").removesuffix(".weight").replace(".", "_")] = module
    return found


def _module(part: str, module: str) -> str:
    """The module that an adapter is of; the oldest files call a text encoder's maps as the network's."""
    if part.startswith("text_encoder"):
        path, _, last = module.rpartition(".")
        return f"{path}.{_OLDEST.get(last, last)}"
    return re.sub(r"\.to_out$", ".to_out.0", module)


def _two_axes(name: str, kind: str, tensor: StoredTensor) -> StoredTensor:
    """A convolution of 1x1 as the linear map that it is, and a DoRA length as a vector."""
    shape = tensor.shape
    if kind == MAGNITUDE:
        return replace(tensor, shape=(max(shape, default=0),))
    if len(shape) == 4 and shape[2:] == (1, 1):
        return replace(tensor, shape=shape[:2])
    if len(shape) != 2:
        raise WeightsError(
            f"{tensor.file} holds {name} of shape {shape}; only linear maps' adapters are built"
        )
    return tensor


def _configs(file: Path) -> dict[str, dict[str, Any]]:
    """PEFT's configurations in the header, by part."""
    text = read_metadata(file).get(METADATA)
    if text is None:
        return {}
    try:
        flat = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{file} has {METADATA} in its header that is no JSON object: {error}") from None
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        part, _, inner = key.partition(".")
        found.setdefault(part, {})[inner] = value
    return found


def _check(file: Path, part: str, stored: StoredPart) -> None:
    wanted = {DOWN, UP, MAGNITUDE} if stored.dora else {DOWN, UP}
    for module, kinds in stored.maps.items():
        if set(kinds) != wanted:
            missing = ", ".join(sorted(wanted ^ set(kinds)))
            raise WeightsError(f"{file}: {part}.{module} lacks or has too much: {missing}")
        if kinds[DOWN].shape[0] != kinds[UP].shape[1] or not kinds[DOWN].shape[0]:
            raise WeightsError(
                f"{file}: {part}.{module} has lora_A of shape {kinds[DOWN].shape} and lora_B of "
                f"{kinds[UP].shape}; expected (rank, inputs) and (outputs, rank)"
            )
