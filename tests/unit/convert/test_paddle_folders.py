"""Folders of PaddleNLP and PaddleMIX, both directions; what an index may name; the command."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from safetensors.numpy import load_file, save_file

from mix_core.cli.main import build_app, guarded
from mix_core.convert.paddle_layout import is_paddle_folder
from mix_core.convert.published import read_model
from mix_core.convert.run import convert, layout_of
from mix_core.errors import BadInputError, WeightsError
from mix_core.models.common.tensor_files import read_folder
from tests.builders.convertible import tensors_of


def test_the_names_and_shapes_are_those_of_the_model(published_folder):
    stored = {name: one.shape for name, one in read_folder(published_folder).items()}
    assert read_model(published_folder).shapes == stored


def test_published_to_pdparams_and_back_is_bit_exact(published_folder, tmp_path):
    import paddle

    report = convert(published_folder, tmp_path / "pd", to="paddle")
    ours = {name: one.read() for name, one in read_folder(published_folder).items()}
    theirs = paddle.load(str(tmp_path / "pd/model_state.pdparams"))
    assert {name: str(t.dtype) for name, t in theirs.items()} == dict.fromkeys(ours, f"paddle.{report.dtype}")
    gate = "model.layers.1.mlp.gate_proj.weight"
    as_stored = theirs[gate].view("uint16") if report.dtype == "bfloat16" else theirs[gate]
    assert list(theirs[gate].shape) == [64, 176] and np.array_equal(as_stored.numpy(), ours[gate].T)
    assert list(theirs["model.embed_tokens.weight"].shape) == list(ours["model.embed_tokens.weight"].shape)
    assert list(theirs["visual.patch_embed.proj.weight"].shape) == [32, 3, 2, 14, 14]
    assert is_paddle_folder(tmp_path / "pd") and layout_of(tmp_path / "pd") == "paddle"
    back = convert(tmp_path / "pd", tmp_path / "back", to="published")
    assert (back.source_layout, back.dtype) == ("paddle", report.dtype)
    assert tensors_of(tmp_path / "back") == tensors_of(published_folder)
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (
        published_folder / "tokenizer.json"
    ).read_bytes()


def as_pickles(published: Path, folder: Path) -> Path:
    """A sharded folder as PaddleNLP writes it, made without the code under test."""
    folder.mkdir()
    shutil.copyfile(published / "config.json", folder / "config.json")
    arrays = {name: np.array(one.read()) for name, one in read_folder(published).items()}
    turned = {
        name: np.ascontiguousarray(a.T) if a.ndim == 2 and "embed_tokens" not in name else a
        for name, a in arrays.items()
    }
    names = sorted(turned)
    weight_map = {}
    for part, own in enumerate((names[::2], names[1::2]), 1):
        file = f"model_state-0000{part}-of-00002.pdparams"
        (folder / file).write_bytes(pickle.dumps({name: turned[name] for name in own}, protocol=4))
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model_state.pdparams.index.json").write_text(json.dumps(index))
    return folder


def test_sharded_pickles_are_read(untied_folder, tmp_path):
    convert(as_pickles(untied_folder, tmp_path / "pd"), tmp_path / "back", to="published")
    assert tensors_of(tmp_path / "back") == tensors_of(untied_folder)


def test_paddles_safetensors_are_told_by_their_header(tied_folder, tmp_path):
    source = tmp_path / "pd"
    source.mkdir()
    shutil.copyfile(tied_folder / "config.json", source / "config.json")
    arrays = {k: v for file in tied_folder.glob("*.safetensors") for k, v in load_file(file).items()}
    turned = {
        k: np.ascontiguousarray(v.T) if v.ndim == 2 and k != "model.embed_tokens.weight" else v
        for k, v in arrays.items()
    }
    save_file(turned, source / "model.safetensors", metadata={"format": "np"})
    assert layout_of(source) == "paddle" and layout_of(tied_folder) == "published"
    convert(source, tmp_path / "back", to="published")
    assert tensors_of(tmp_path / "back") == tensors_of(tied_folder)


@pytest.mark.parametrize("name", ["../secret.pdparams", "/etc/passwd", "..", "a\\b", "sub/x.pdparams", 3])
def test_an_index_that_leaves_its_folder_is_refused(untied_folder, tmp_path, name):
    source = as_pickles(untied_folder, tmp_path / "pd")
    shutil.copyfile(source / "model_state-00001-of-00002.pdparams", tmp_path / "secret.pdparams")
    path = source / "model_state.pdparams.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="index") as error:
        convert(source, tmp_path / "back", to="published")
    assert "\n" not in str(error.value) and not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_a_published_index_that_leaves_its_folder_is_refused(tied_folder, tmp_path, name):
    source = shutil.copytree(tied_folder, tmp_path / "model")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="must lie in the index's own folder"):
        convert(source, tmp_path / "pd", to="paddle")


def test_what_does_not_fit_the_configuration_is_named(untied_folder, tmp_path):
    source = as_pickles(untied_folder, tmp_path / "pd")
    part = source / "model_state-00001-of-00002.pdparams"
    whole = pickle.loads(part.read_bytes())
    name = next(iter(whole))
    for change, reason in (
        ({name: None}, f"{name} is no array"),
        ({"other.weight": np.zeros(2, np.float32)}, "holds other.weight, which config.json does not ask for"),
        ({name: np.zeros((3, 7, 2), np.float32)}, rf"{name} has shape \(3, 7, 2\)"),
    ):
        part.write_bytes(pickle.dumps(whole | change))
        with pytest.raises(WeightsError, match=reason):
            convert(source, tmp_path / "back", to="published")
    part.write_bytes(pickle.dumps({k: v for k, v in whole.items() if k != name}))
    with pytest.raises(WeightsError, match=f"lacks the weight {name}"):
        convert(source, tmp_path / "back", to="published")
    part.rename(source / "model_state.tp00.pdparams")
    (source / "model_state.pdparams.index.json").unlink()
    with pytest.raises(WeightsError, match="one file for each tensor-parallel rank"):
        convert(source, tmp_path / "back", to="published")


def test_folders_are_checked_before_anything_is_written(tied_folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/model.safetensors").write_bytes(b"")
    (tmp_path / "llama/config.json").write_text('{"model_type": "llama"}')
    for source, target, reason in (
        (tied_folder, "full", "not empty"),
        (tmp_path / "none", "new", "there is no folder"),
        (tmp_path / "empty", "new", "no weights in a known layout"),
        (tmp_path / "llama", "new", "no model family reads model_type 'llama'"),
    ):
        with pytest.raises(BadInputError, match=reason):
            convert(source, tmp_path / target, to="paddle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full", "llama"]


def test_the_command_reports_and_refuses(tied_folder, tmp_path, capsys):
    runner = typer.testing.CliRunner()
    done = runner.invoke(
        build_app(),
        [
            *("convert", str(tied_folder), str(tmp_path / "mm"), "--to", "mindspeed-mm"),
            *("--vit_pp_layers", "[4,0]", "--llm_pp_layers", "[2,3]", "--tp_size", "2"),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0 and "read back, equal bit for bit" in done.output
    assert "stages: vit [4, 0], llm [2, 3]; tensor-parallel ranks: 2" in done.output
    assert len(list((tmp_path / "mm/release").glob("mp_rank_0?_00?/model_optim_rng.pt"))) == 4
    argv = ["convert", str(tmp_path / "mm"), str(tmp_path / "back"), "--from", "mindspeed-mm"]
    code = guarded(lambda: build_app()(args=argv, standalone_mode=False), argv)
    assert code == 2 and "give --base FOLDER" in capsys.readouterr().err
    argv = ["convert", str(tmp_path / "mm"), str(tmp_path / "back"), "--to", "gguf"]
    assert guarded(lambda: build_app()(args=argv, standalone_mode=False), argv) == 2
    assert "--to is gguf, expected one of published, paddle, mindspeed-mm" in capsys.readouterr().err


def test_without_torch_the_extra_is_named_and_paddle_is_not_needed(tied_folder, tmp_path):
    """As a process, in which neither torch nor paddle can be imported."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['paddle'] = None\n"
        "from mix_core.cli import main; main.main()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "convert",
            str(tied_folder),
            str(tmp_path / "mm"),
            "--to",
            "mindspeed-mm",
        ],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 2 and "pip install 'mix-core[convert]'" in done.stderr, done.stderr
    assert not any(tmp_path.iterdir())
