"""The figures that families give of themselves, against models built without memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mix_core.errors import BadInputError
from mix_core.models.outline import Outline
from mix_core.models.registry import families
from mix_core.planning.model import outline_of, published_names
from mix_core.training.throughput import parts_that_learn

PROGRAM = Path(__file__).parents[2] / "programs" / "outline_parameters.py"


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, int]]:
    """Parameters of every published size by module."""
    ran = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_every_family_has_sizes_and_an_outline():
    assert {name for name, family in families().items() if family.outline and family.sizes} >= {
        "qwen2_5_vl",
        "qwen2_vl",
        "internvl2",
        "llava",
        "qwen_vl",
    }
    assert len(published_names()) == len(set(published_names())) >= 11


def test_parameters_are_those_of_the_model_by_part(built):
    assert set(built) == set(published_names())
    for name, modules in built.items():
        outline = outline_of(name)
        assert outline.parameters == sum(modules.values()), name
        found = dict.fromkeys(("tower", "projector", "decoder"), 0)
        for module, count in modules.items():
            (part,) = [part for part, learns in parts_that_learn([f"{module}.weight"])[0].items() if learns]
            found[part] += count
        # image_newline has a name of its own and stands with the projector; it is one vector
        assert found["tower"] == outline.parameters_of("tower"), name
        assert abs(found["decoder"] - outline.parameters_of("decoder")) <= outline.decoder.width, name


def test_a_tile_gives_the_tokens_that_the_families_say():
    tokens = {
        name: (outline_of(name).tile_patches, outline_of(name).tile_tokens) for name in published_names()
    }
    assert tokens["qwen2_5_vl-7b"] == (1024, 256) and tokens["internvl2-2b"] == (1025, 256)
    assert tokens["llava-1.5-7b"] == (577, 576) and tokens["qwen_vl-7b"] == (1024, 256)


def test_a_folder_is_read_like_a_published_size(tmp_path):
    (size,) = [size for size in families()["qwen2_5_vl"].sizes if size.name == "qwen2_5_vl-3b"]
    (tmp_path / "config.json").write_text(json.dumps(size.config))
    found = outline_of(str(tmp_path))
    assert isinstance(found, Outline) and found == outline_of("qwen2_5_vl-3b") == outline_of(
        "Qwen/QWEN2_5_VL-3B"
    )
    assert found.tied and found.decoder.layers == 36


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(BadInputError, match="nearest name is qwen2_5_vl-7b") as refused:
        outline_of("qwen2_5_vl-7")
    assert "\n" not in str(refused.value)
