"""Adapters that `mix_core.load` puts on a model. Importing this module imports no paddle."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.errors import BadInputError
from mix_core.models.common.adapter_files import StoredAdapter, read_adapter
from mix_core.models.common.chat_template import TEMPLATE_FILE, ChatTemplate

if TYPE_CHECKING:
    from mix_core.models.common.adapters import AdapterSet
    from mix_core.models.registry import ModelFamily

Adapters = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""A folder, several, or names with folders. An unnamed one has the name of its folder."""

_NAMED = re.compile(r"([\w-]+)=(.+)")


def named_folders(given: Adapters | None) -> dict[str, str]:
    """Name -> folder. A text may be NAME=FOLDER. Raises BadInputError for a name that is given twice."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): str(folder) for name, folder in given.items()}
    named: dict[str, str] = {}
    for one in [given] if isinstance(given, (str, Path)) else given:
        match = None if Path(one).exists() else _NAMED.fullmatch(str(one))
        name, folder = match.groups() if match else (Path(one).resolve().name, str(one))
        if name in named:
            raise BadInputError(
                f"two adapters are called {name}: {named[name]} and {folder}; name them, as NAME=FOLDER"
            )
        named[name] = folder
    return named


def read_adapters(given: Adapters | None) -> dict[str, StoredAdapter]:
    """Look through the adapters' folders, before anything slow begins. Raises BadInputError, WeightsError."""
    return {name: read_adapter(folder) for name, folder in named_folders(given).items()}


def templates_of(
    stored: Mapping[str, StoredAdapter], processor: Any
) -> dict[str | None, ChatTemplate | None]:
    """The chat template of each adapter that learned under another than the model folder's, whose own is
    None's; {} where all learned under that one.

    Only adapters of ours: other tools leave a copy of some template beside every adapter. Raises
    BadInputError for a broken one.
    """
    theirs: dict[str | None, ChatTemplate | None] = {
        name: ChatTemplate.from_folder(adapter.folder, processor.tokenizer.special_tokens)
        for name, adapter in stored.items()
        if adapter.fingerprint is not None and (adapter.folder / TEMPLATE_FILE).is_file()
    }
    return {None: processor.chat_template, **theirs} if theirs else {}


def put_on(model: Any, family: ModelFamily, stored: Mapping[str, StoredAdapter]) -> AdapterSet:
    """Put adapters on a loaded model; the first is in use. Raises WeightsError where one is for another."""
    from mix_core.models.common.adapters import AdapterSet

    adapters = AdapterSet(model, family)
    for name, adapter in stored.items():
        adapters.add(name, adapter)
    adapters.use(next(iter(stored)))
    return adapters
