"""Adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

A map's matrices are `base_model.model.MODULE.lora_A.weight` (R, I) and `.lora_B.weight` (O, R), MODULE being
the published module's name, and DoRA's lengths `.lora_magnitude_vector` (O,). What learned as a whole beside
them is there under its own name, and `modules_to_save` lists the modules. Our files also say which weights
the adapter was made for (`fingerprint`); PEFT passes over that.

This module imports no paddle. Shapes: I input features, O output features, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mix_core.errors import WeightsError
from mix_core.models.common.tensor_files import StoredTensor, read_header, read_metadata

ADAPTERS = ".adapters."
"""In the names of a model's parameters that are an adapter's."""

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DOWN, UP, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
FINGERPRINT = "mix_core.base"
"""In the file's header: what `fingerprint` gives of the weights that the adapter was made for."""
ROUNDED = "mix_core.weight_quantize_algo"
"""In the file's header: how these weights were rounded while the adapter learned."""

_TAKEN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "alpha_pattern": ({},),
    "trainable_token_indices": (),
    "target_parameters": ([],),
    "layer_replication": (),
    "use_qalora": (False,),
    "alora_invocation_tokens": (),
    "megatron_config": (),
}
"""Keys of PEFT's configuration that change what an adapter does, and the values that ask for nothing."""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter's folder, looked through; its numbers are read when they are asked for."""

    folder: Path
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    base: str
    """The model that it was made for, as its configuration names it."""
    fingerprint: str | None
    rounded: str | None
    """How the weights under it were rounded while it learned; None: they were not."""
    maps: dict[str, dict[str, StoredTensor]]
    """Module -> DOWN, UP and, for DoRA, MAGNITUDE."""
    whole: dict[str, StoredTensor]
    """Parameters that learned as a whole."""

    def renamed(self, stored_name: Callable[[str], str]) -> StoredAdapter:
        """The same with published names: PEFT writes those that modules have in memory.

        `stored_name`: the family's. Raises WeightsError where two names become one.
        """
        maps = {stored_name(f"{name}.weight").removesuffix(".weight"): m for name, m in self.maps.items()}
        whole = {stored_name(name): tensor for name, tensor in self.whole.items()}
        if len(maps) < len(self.maps) or len(whole) < len(self.whole):
            raise WeightsError(f"{self.folder / TENSORS} holds a module twice, under two of its names")
        return replace(self, maps=maps, whole=whole)


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


def adapter_folder(path: str | Path) -> Path:
    """The folder of an adapter: the path itself, or the newest checkpoint of a run folder.

    Raises WeightsError where there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_dir() and not is_adapter(folder):
        numbers = {
            p.name.removeprefix("checkpoint-"): p for p in folder.glob("checkpoint-*") if is_adapter(p)
        }
        steps = [int(number) for number in numbers if number.isdigit()]
        folder = numbers[str(max(steps))] if steps else folder
    if not is_adapter(folder):
        raise WeightsError(f"{path} is no adapter; expected a folder with {CONFIG} and {TENSORS}")
    return folder


def read_adapter(path: str | Path) -> StoredAdapter:
    """Look through an adapter's folder, or the newest checkpoint of a run. Names are the files' own.

    Raises WeightsError for what is no LoRA adapter, or one with parts that are not built.
    """
    folder = adapter_folder(path)
    config = _read_config(folder / CONFIG)
    if not (folder / TENSORS).is_file():
        raise WeightsError(f"{folder} has {CONFIG} and no {TENSORS}; only safetensors are read")
    maps: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, StoredTensor] = {}
    for key, tensor in read_header(folder / TENSORS).items():
        inner = key.removeprefix(PREFIX)
        kind = next((kind for kind in (DOWN, UP, MAGNITUDE) if inner.endswith(f".{kind}")), None)
        if kind is not None:
            maps.setdefault(inner.removesuffix(f".{kind}"), {})[kind] = tensor
        elif ".lora_" in inner:
            raise WeightsError(f"{folder / TENSORS} holds {key}; of adapters only linear maps' are built")
        else:
            whole[inner] = tensor
    dora = bool(config.get("use_dora", False))
    wanted = {DOWN, UP, MAGNITUDE} if dora else {DOWN, UP}
    for module, parts in maps.items():
        if set(parts) != wanted:
            missing = ", ".join(sorted(wanted ^ set(parts)))
            raise WeightsError(f"{folder / TENSORS}: {module} lacks or has too much: {missing}")
    if not maps and not whole:
        raise WeightsError(f"{folder / TENSORS} holds no tensor")
    header = read_metadata(folder / TENSORS)
    return StoredAdapter(
        folder=folder,
        rank=_number(config, "r", folder),
        alpha=_number(config, "lora_alpha", folder),
        dropout=float(config.get("lora_dropout") or 0.0),
        rslora=bool(config.get("use_rslora", False)),
        dora=dora,
        base=str(config.get("base_model_name_or_path") or "a model without a name"),
        fingerprint=header.get(FINGERPRINT),
        rounded=header.get(ROUNDED),
        maps=maps,
        whole=whole,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise WeightsError(f"{path}: peft_type is {kind!r}, expected 'LORA'; other adapters are not built")
    for key, fine in _TAKEN.items():
        if config.get(key) is not None and config[key] not in fine:
            raise WeightsError(
                f"{path}: {key} is {config[key]!r}, which is not built; expected it to be absent"
            )
    return config


def _number(config: dict[str, Any], key: str, folder: Path) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise WeightsError(f"{folder / CONFIG}: {key} is {value!r}, expected a number above 0")
    return value


def config_text(
    settings: Any, *, base: str, targets: Sequence[str], others: Iterable[str], whole: Sequence[str]
) -> str:
    """adapter_config.json.

    Args:
        settings: `LoRASettings`.
        base: the model's folder or hub name.
        targets, others: published modules that have the adapter, and the linear ones that have not.
        whole: modules that learned as a whole.
    """
    alpha = settings.alpha
    values = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "target_modules": shortest_names(targets, others),
        "modules_to_save": list(whole) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return json.dumps(values, indent=2) + "\n"


def shortest_names(targets: Sequence[str], others: Iterable[str]) -> list[str]:
    """The ends of the targets' names that no other module's name ends with.

    PEFT compares ends, so that a list made of them selects the same modules where names begin otherwise, as
    they do in transformers' memory.
    """
    taken = {end for name in others for end in _ends(name)}
    return sorted({next((end for end in _ends(name) if end not in taken), name) for name in targets})


def _ends(name: str) -> list[str]:
    """`a.b.c` -> c, b.c, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def modules_of(parameters: Iterable[str], all_parameters: Iterable[str]) -> list[str]:
    """The fewest modules that hold these parameters and, of the others, none but those of a leaf."""
    chosen = {name.rpartition(".")[0] for name in parameters}
    leaves = {name.rpartition(".")[0] for name in all_parameters}
    left = leaves - chosen
    found = set()
    for leaf in chosen:
        starts = reversed(_starts(leaf))
        found.add(next((s for s in starts if not any(o == s or o.startswith(s + ".") for o in left)), leaf))
    return sorted(found)


def _starts(name: str) -> list[str]:
    """`a.b.c` -> a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
