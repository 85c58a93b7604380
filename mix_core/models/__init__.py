"""Models: one folder each, found through the registry. Importing this package imports no paddle."""

from __future__ import annotations

from mix_core.models.registry import ModelFamily, families, family_of_folder, get_family, load_model

__all__ = ["ModelFamily", "families", "family_of_folder", "get_family", "load_model"]
