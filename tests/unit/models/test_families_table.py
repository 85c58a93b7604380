"""docs/models.md says which families are built; naming another one is refused in one line that says where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mix_core.errors import BadInputError
from mix_core.models import registry

TABLE = Path(__file__).parents[3] / "docs" / "models.md"
UNBUILT = [
    "blip-2",
    "blip2",
    "minigpt4",
    "internlmxcomposer2",
    "internlm_xcomposer2",
    "minimonkey",
    "grounding-dino",
    "groundingdino",
    "sam",
    "chatglm",
    "visualglm",
    "eva02",
    "clip",
    "cogvlm",
]
PICTURES = "Stable Diffusion 1.5, SDXL, SD3"
"""Models that draw are kinds of folders (mix_core.inference.text_to_image), no families that answer."""
ORIGINAL_ROWS = [
    *("YOLO-World", "audioldm2", "blip2", "clip", "coca", "CogVLM and CogAgent", "eva02", "evaclip"),
    *("groundingdino", "imagebind", "InternLM-XComposer2", "internvl2", "llava", "llava-next (interleave)"),
    *("minigpt4", "minimonkey", "qwen2_vl", "qwen_vl", "sam", "visualglm"),
]
"""PaddleMIX's unified fine-tuning tool lists these."""


def rows() -> list[list[str]]:
    """Cells of the rows of the page's first section."""
    section = TABLE.read_text(encoding="utf-8").split("## The families")[1].split("## Adding a model")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "offered there" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_built_rows_are_the_installed_families() -> None:
    built = {row[0].strip("`") for row in rows() if row[1] == "yes"}
    assert PICTURES in built
    built.remove(PICTURES)
    assert built == set(registry.families())
    own = [entry for entry in entry_points(group=registry.GROUP) if entry.value.startswith("mix_core.")]
    assert built <= {entry.name for entry in own}


def test_every_model_of_the_original_tool_has_one_row() -> None:
    names = [row[0].strip("`") for row in rows()]
    assert len(names) == len(set(names))
    assert set(ORIGINAL_ROWS) <= set(names)
    assert all(row[-1] for row in rows()), "each row ends with where training ran, or why it is not built"


@pytest.mark.parametrize("model_type", UNBUILT)
def test_a_family_that_is_not_built_is_refused(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BadInputError) as refused:
        registry.family_of_folder(tmp_path)
    said = str(refused.value)
    assert "\n" not in said and "docs/models.md" in said
    listed = re.search(r"reads model_type '(.*)'; installed: ([a-z0-9_, ]+);", said)
    assert listed is not None and listed[1] == model_type
    assert listed[2].split(", ") == sorted(registry.families())


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    words = ["infer", "--model", str(tmp_path), "--prompt", "What is it?", "--device", "cpu"]
    command = [sys.executable, "-m", "mix_core.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: no model family reads model_type 'blip-2'")
