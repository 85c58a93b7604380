"""A data set of pictures with captions from the hub, in the form of a folder."""

from __future__ import annotations

from pathlib import Path

from mix_core.data.captions import CSV, JSONL, PICTURES
from mix_core.data.parquet_pictures import ENDING
from mix_core.errors import DataError


def fetch_pictures(name: str, revision: str | None = None) -> Path:
    """The folder of a hub data set (owner/name) in the hub's cache: pictures and captions, or parquet files.

    HF_ENDPOINT and HF_HUB_OFFLINE count. Raises DataError: it cannot be fetched, or holds neither.
    """
    import huggingface_hub

    patterns = [*(f"*{ending}" for ending in PICTURES), f"*{JSONL}", f"*{CSV}", "*.txt", f"*{ENDING}"]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=patterns
            )
        )
    except Exception as error:  # the library's errors and those of its HTTP client have no common base
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"there is no folder {name}, and the hub's data set of that name cannot be fetched ({reason}); "
            f"give train_data_dir, a folder with pictures and {JSONL}"
        ) from error
    if not any(path.suffix.lower() in (*PICTURES, ENDING) for path in folder.rglob("*")):
        raise DataError(
            f"the hub's data set {name} holds neither pictures nor {ENDING} files; save its pictures with "
            f"{JSONL} into a folder and give train_data_dir"
        )
    return folder
