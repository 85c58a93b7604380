"""Each kind of bad input that downloads and hands leave behind: one line that names it, exit code 2.

The command runs in this process, for two seconds a case would go into its start. test_train_bad_input.py
starts it as a user does, test_train_mixed_data.py leaves such rows out and counts them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle  # noqa: F401 (once it is there, the command cannot start this process again)
import pytest
from PIL import Image

from mix_core.train import main
from tests.builders.checkpoints import write_checkpoint
from tests.integration.training_runs import write_data, write_inputs
from tests.unit.data.test_images import bomb


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, data of two rows, and a model with weights in `whole`."""
    folder = tmp_path_factory.mktemp("inputs")
    keys = {"max_steps": 2, "save_strategy": "no", "shuffle": False, "per_device_train_batch_size": 1}
    write_inputs(folder, **keys)
    write_checkpoint(folder / "whole", weights=True)
    return folder


def refusal(capsys: pytest.CaptureFixture[str], inputs: Path, run: Path, **keys: Any) -> str:
    """The one line of error with which the command ends under these keys of the configuration."""
    config = json.loads((inputs / "config.json").read_text()) | {"output_dir": str(run), **keys}
    path = run.with_suffix(".json")
    path.write_text(json.dumps(config))
    capsys.readouterr()
    code = main([str(path)])
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and said.rstrip().endswith(lines[0]), said
    assert "Traceback" not in said
    return lines[0]


def row(capsys: pytest.CaptureFixture[str], inputs: Path, tmp_path: Path, **row: Any) -> str:
    """The error for data whose second row is this one."""
    data = tmp_path / "data/train.json"
    write_data(data.parent, 2, **row)
    return refusal(capsys, inputs, tmp_path / "run", dataset={"train": str(data)})


def spoil(path: Path, kind: str) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
    content = {
        "a page": b"<!DOCTYPE html><title>404</title>",
        "nothing": b"",
        "a bomb": bomb(30_000, 30_000),
        "half of it": path.read_bytes()[:4000],
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("a page", "its content is an HTML page, as a server sends instead of a picture; fetch it again"),
        ("nothing", "it has 0 bytes; fetch it again"),
        ("a bomb", "the limit is 89478485 pixels"),
        ("half of it", "its data is truncated or corrupt"),
    ],
)
def test_pictures(capsys, inputs, tmp_path, kind, says):
    (tmp_path / "data").mkdir()
    spoil(tmp_path / "data/bad.png", kind)
    asked = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "it."}]
    found = row(capsys, inputs, tmp_path, images=["bad.png"], messages=asked)
    assert f"{tmp_path}/data/train.json row 2: image {tmp_path}/data/bad.png: " in found and says in found


def test_an_address_that_points_inside(capsys, inputs, tmp_path):
    asked = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "it."}]
    found = row(capsys, inputs, tmp_path, images=["http://127.0.0.1:9/a.png"], messages=asked)
    assert "row 2: " in found and "the private address 127.0.0.1, which is refused" in found


def turns(question: str, answer: str) -> dict[str, Any]:
    said = [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    return {"images": [], "messages": said}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            {"messages": [{"role": "user"}]},
            'row 2: turn 1: the key "content" is missing; the turn\'s keys are role',
        ),
        (
            turns("<img>a.png\nWhat?", "it."),
            "row 2: turn 1: <img> has no </img> on its line, at '<img>a.png'",
        ),
        (
            turns("Where?", "<box>(1,2),(3,1000)</box>"),
            "row 2: turn 2: <box>(1,2),(3,1000)</box> reaches outside [0, 1000)",
        ),
    ],
)
def test_rows(capsys, inputs, tmp_path, bad, says):
    assert says in row(capsys, inputs, tmp_path, **bad)


def test_a_template_that_fails_on_a_row(capsys, inputs, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content.text.upper() }}{% endfor %}")
    found = refusal(capsys, inputs, tmp_path / "run", chat_template=str(template))
    assert f"train.json row 1: {template} fails: 'str object' has no attribute 'text'" in found


def test_adapters(capsys, inputs, tmp_path):
    """Targets that match nothing, and an adapter that another model's weights learned."""
    keys = {"from_scratch": False, "lora": True, "lora_rank": 2, "max_steps": 1}
    model = str(inputs / "whole")
    found = refusal(
        capsys, inputs, tmp_path / "a", model_name_or_path=model, lora_target_modules=["q_prj"], **keys
    )
    assert "'q_prj' matches no" in found and "q_proj" in found
    config = json.loads((inputs / "config.json").read_text()) | keys
    config |= {"model_name_or_path": model, "output_dir": str(tmp_path / "b")}
    (tmp_path / "b.json").write_text(json.dumps(config))
    assert main([str(tmp_path / "b.json")]) == 0
    other = str(write_checkpoint(tmp_path / "other", weights=True, seed=3))
    found = refusal(
        capsys, inputs, tmp_path / "c", model_name_or_path=other, lora_path=str(tmp_path / "b"), **keys
    )
    assert "is an adapter for another model" in found


def test_an_index_that_leaves_its_folder(capsys, inputs, tmp_path):
    folder = Path(shutil.copytree(inputs / "whole", tmp_path / "model"))
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = refusal(capsys, inputs, tmp_path / "run", model_name_or_path=str(folder), from_scratch=False)
    assert "must lie in the index's own folder" in found
