"""Model folders by path or by hub name.

A name is fetched with huggingface_hub, so HF_ENDPOINT (a mirror), HF_HUB_OFFLINE, HF_HOME and a stored token
mean what they mean elsewhere. Weight files are brought into its cache first, each by way of a part file: a
download that was cut off, in this process or an earlier one, goes on where it ended.
"""

from __future__ import annotations

import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mix_core.errors import BadInputError

WEIGHTS = "*.safetensors"
PATTERNS = (WEIGHTS, "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""What is fetched of a model: weights, configurations, vocabularies. Nothing in these is unpickled."""

PUBLISHERS = {
    "qwen-vl/qwen-vl-7b": "Qwen/Qwen-VL",
    "qwen-vl/qwen-vl-chat-7b": "Qwen/Qwen-VL-Chat",
    "paddlemix/llava/llava-v1.5-7b": "liuhaotian/llava-v1.5-7b",
    "paddlemix/llava/llava-v1.6-vicuna-7b": "liuhaotian/llava-v1.6-vicuna-7b",
}
"""Names that the PaddleMIX guides use -> where their publishers keep the model."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORKERS = 4

log = logging.getLogger(__name__)


def resolve_model_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a model: the path itself if it is a folder, else a snapshot of that hub name.

    A run folder stands for its newest checkpoint.
    ``revision``: branch, tag or commit of a hub name. Raises BadInputError, with what to provide instead, for
    a path that is no folder and for a model that cannot be fetched.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_dir():
        return _newest_checkpoint(path) or path
    name = PUBLISHERS.get(text, text)
    if path.exists():
        raise BadInputError(
            f"model {text} is a file, expected a folder in the published layout or a hub name"
        )
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise BadInputError(f"there is no folder {text}; expected a model folder or a hub name (owner/model)")
    import huggingface_hub
    import huggingface_hub.constants

    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            _fetch_weights(huggingface_hub, name, revision)
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS))
    except Exception as error:  # the library's errors and those of its HTTP client have no common base
        raise BadInputError(_not_fetched(huggingface_hub, text, name, error)) from error
    return Path(folder)


def _newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint-N with the largest N of a run folder; None for a folder that holds a model itself."""
    if any((folder / name).exists() for name in ("config.json", "model_index.json")):
        return None
    found = {int(m[1]): path for path in folder.iterdir() if (m := _CHECKPOINT.fullmatch(path.name))}
    return found[max(found)] if found else None


def _not_fetched(hub: Any, text: str, name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if hub.constants.HF_HUB_OFFLINE:
        where = f"is not in the cache {hub.constants.HF_HUB_CACHE} (HF_HUB_OFFLINE is set)"
    else:
        where = f"cannot be fetched from {hub.constants.ENDPOINT} ({type(error).__name__}: {reason})"
    return (
        f"there is no folder {text}, and the hub model {name} {where}; "
        f"provide a folder {name.split('/')[-1]} with its config.json, *.safetensors, tokenizer and "
        "preprocessor files and give its path, or set HF_ENDPOINT to a server that can be reached"
    )


def _fetch_weights(hub: Any, name: str, revision: str | None) -> None:
    """Bring the weight files that are missing into the hub's cache; `snapshot_download` then links them."""
    try:
        info = hub.HfApi().model_info(name, revision=revision)
    except Exception as error:  # see resolve_model_folder
        if not _cache_folder(hub, name).is_dir():
            raise
        log.warning("the hub cannot be asked for %s (%s); using the cache", name, type(error).__name__)
        return
    files = [entry.rfilename for entry in info.siblings or () if fnmatch(entry.rfilename, WEIGHTS)]
    missing = [file for file in files if not _is_cached(hub, name, file, info.sha)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for done in [pool.submit(_fetch_file, hub, name, file, info.sha) for file in missing]:
            done.result()


def _is_cached(hub: Any, name: str, file: str, commit: str) -> bool:
    return isinstance(hub.try_to_load_from_cache(name, file, revision=commit), str)


def _fetch_file(hub: Any, name: str, file: str, commit: str) -> None:
    """Download one file to ``blobs/<etag>`` of the hub's cache; its part file outlives this process."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    headers = build_hf_headers()
    url = hub.hf_hub_url(name, file, revision=commit)
    found = hub.get_hf_file_metadata(url)
    if getattr(found, "xet_file_data", None) is not None or found.etag is None or found.size is None:
        return  # the hub's own client fetches by content there, and needs no part file
    folder = _cache_folder(hub, name)
    blob = folder / "blobs" / found.etag
    part = blob.with_name(f"{found.etag}.part")
    lock = folder.parent / ".locks" / folder.name / f"{found.etag}.part.lock"
    for directory in (blob.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        resumed = part.stat().st_size if part.exists() else 0
        if resumed > found.size:
            part.unlink()
            resumed = 0
        with part.open("ab") as out:
            http_get(
                url,
                out,
                resume_size=resumed,
                headers=headers,
                expected_size=found.size,
                displayed_filename=file,
            )
        if resumed and _SHA256.fullmatch(found.etag) and _sha256(part) != found.etag:
            part.unlink()
            raise OSError(f"{file} was resumed and its checksum is wrong; run again to fetch it anew")
        part.replace(blob)


def _cache_folder(hub: Any, name: str) -> Path:
    return Path(hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
