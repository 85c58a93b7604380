"""Whether ranks can share the layers of a model. Imports no paddle."""

from __future__ import annotations

from pathlib import Path

from mix_core.errors import ConfigError
from mix_core.models.registry import family_of_folder, read_config


def check_divides(folder: Path, ranks: int) -> None:
    """Whether so many ranks can share the layers of the model in this folder.

    Raises:
        ConfigError: its family has no plan for that, or a size does not divide; both are named.
    """
    family = family_of_folder(folder)
    if family.tensor_plan is None or family.outline is None:
        raise ConfigError(
            f"tensor_parallel_degree is {ranks}, and models of {family.name} are not divided yet; leave the "
            "key out"
        )
    decoder = family.outline(family.config_from_dict(read_config(folder))).decoder
    sizes = {
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "intermediate_size": decoder.inner,
    }
    for name, size in sizes.items():
        if size % ranks:
            raise ConfigError(
                f"tensor_parallel_degree {ranks} does not divide {name} {size} of {folder}; give a divisor "
                "of it"
            )
