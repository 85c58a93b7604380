"""The model of a plan: a published size by name, or a folder's config.json."""

from __future__ import annotations

import difflib
from pathlib import Path

from mix_core.errors import BadInputError
from mix_core.models.outline import Outline
from mix_core.models.registry import families, get_family, read_config


def published_names() -> list[str]:
    return sorted(size.name for family in families().values() for size in family.sizes)


def outline_of(model: str) -> Outline:
    """In figures. Raises BadInputError for a name that is neither a folder nor a published size."""
    if Path(model).is_dir():
        source = read_config(Path(model))
        family = get_family(source["model_type"])
        if family.outline is None:
            raise BadInputError(
                f"the family {family.name} gives no outline to plan with; its package can add one as "
                "ModelFamily.outline"
            )
        return family.outline(family.config_from_dict(source))
    wanted = model.lower().rpartition("/")[2]
    for family in families().values():
        for size in family.sizes:
            if wanted == size.name and family.outline is not None:
                return family.outline(family.config_from_dict(size.config))
    names = published_names()
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
    nearest = f"the nearest name is {close[0]}" if close else "no family names a size"
    raise BadInputError(
        f"--model {model!r} is no folder and no published size; {nearest} (of {', '.join(names)})"
    )
