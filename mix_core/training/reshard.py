"""Writes a checkpoint again with its training state in the pieces of another number of ranks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mix_core.errors import CheckpointError, ConfigError
from mix_core.training import checkpoint, state
from mix_core.training.partition import part_of, whole_box
from mix_core.training.state import Piece, StateReader

DIVIDED = "optimizer."
"""What ranks share, by how its names begin; the rest is written whole, by the first rank."""


def reshard(source: Path, target: Path, ranks: int) -> dict[str, Any]:
    """Write the checkpoint `source` as `target`, as `ranks` ranks would have written it -> its manifest.

    Weights, tokenizer and all other published files are copied as they are. One rank's share is in memory at
    a time.

    Raises:
        CheckpointError: `source` is not whole, or its pieces do not cover a tensor.
        ConfigError: `target` is there already, or `ranks` is no positive number.
    """
    if ranks < 1:
        raise ConfigError(f"ranks is {ranks}; expected a whole number from 1 on")
    if target.exists():
        raise ConfigError(f"{target} is there already; give a folder that is not")
    fault = checkpoint.first_fault(source)
    if fault is not None:
        raise CheckpointError(fault)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(state.FOLDER))
        _write_state(StateReader(source), partial / state.FOLDER, ranks)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    checkpoint.sync(target.parent)
    return state.read_manifest(target)


def _write_state(reader: StateReader, folder: Path, ranks: int) -> None:
    folder.mkdir()
    parts = []
    for rank in range(ranks):
        stem = "optimizer" if rank == 0 else f"optimizer.rank{rank}"
        parts.append(state.write_pieces(folder, stem, _share(reader, rank, ranks)))
    rest = [name for name in reader.names() if not name.startswith(DIVIDED)]
    parts.append(state.write_pieces(folder, "random", ((n, state.whole_piece(reader.read(n))) for n in rest)))
    manifest = reader.manifest
    state.write_manifest(folder, manifest["step"], {**manifest["state"], "ranks": ranks}, state.joined(parts))


def _share(reader: StateReader, rank: int, ranks: int) -> Iterator[tuple[str, Piece]]:
    for name in reader.names(DIVIDED):
        shape = tuple(reader.entry(name)["shape"])
        box = part_of(shape, rank, ranks) if ranks > 1 else whole_box(shape)
        if box.size and len(box.shape) == len(shape):
            yield name, Piece(reader.read(name, box), box.offset, shape)
