"""Small Qwen2.5-VL folders to convert: tied in float32, and untied in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mix_core.models.common.tensor_files import Outgoing, read_folder, write_folder
from tests.builders.checkpoints import write_checkpoint

TEXT = {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2}


def as_published(folder: Path, *, bfloat16: bool) -> None:
    """Rename transformers' names to the published ones; and cut the values to bfloat16."""
    outgoing = []
    for name, one in read_folder(folder).items():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        values = np.array(one.read())
        if bfloat16:
            values = (values.view(np.uint32) >> 16).astype(np.uint16)
        dtype = "BF16" if bfloat16 else one.dtype
        outgoing.append(Outgoing(name, dtype, one.shape, lambda values=values: values))
    write_folder(folder, outgoing, 300_000)
    config = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = "bfloat16" if bfloat16 else "float32"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("tied") / "model", text=TEXT, weights=True)
    as_published(folder, bfloat16=False)
    return folder


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(
        tmp_path_factory.mktemp("untied") / "model", text=TEXT, weights=True, tie_word_embeddings=False
    )
    as_published(folder, bfloat16=True)
    return folder


@pytest.fixture(params=["tied_folder", "untied_folder"])
def published_folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)
