"""What a user can get wrong with the training command: one line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders.checkpoints import write_checkpoint
from tests.integration.training_runs import assert_refused, train, write_data, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder of good inputs; a test copies the configuration with what it spoils."""
    return write_inputs(tmp_path_factory.mktemp("inputs")).parent


def spoilt(inputs: Path, tmp_path: Path, **keys: Any) -> Path:
    config = json.loads((inputs / "config.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "output_dir": str(tmp_path / "run"), **keys}))
    return path


def with_data(inputs: Path, tmp_path: Path, **row: Any) -> Path:
    return spoilt(inputs, tmp_path, dataset={"train": str(write_data(tmp_path / "data", **row))})


def asks(text: str, answer: str = "it is.") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.json"], ["no configuration file none.json"]),
        (["--recipe", "none"], ['no recipe "none"', "digits"]),
        (["--recipe", "digits", "c.json"], ["give one of them"]),
        (["a.json", "b.json"], ['unexpected argument "b.json"']),
        (["--recipe", "digits", "--seed"], ["--seed needs a value"]),
        (["--recipe", "digits", "--seed", "1", "seed=2"], ["given as 1 and as 2"]),
        (["--recipe", "digits", "--sede", "1"], ['unknown key "sede"', 'the nearest key is "seed"']),
        (["--recipe", "digits", "--max_steps", "many"], ['got the text "many", expected a whole number']),
        (["--recipe", "digits", "--lora"], ["from_scratch draws random ones"]),
        (["--learning_rate", "1"], ["model_name_or_path is missing"]),
    ],
)
def test_arguments(tmp_path, words, says):
    assert_refused(train(*words, cwd=tmp_path), 2, *says)


def test_a_guides_sample_as_printed(tmp_path):
    (tmp_path / "c.json").write_text('{\n  "model_name_or_path": "m"\uff0c\n}', encoding="utf-8")
    done = train("c.json", cwd=tmp_path)
    assert_refused(done, 2, "c.json line 2 column 28", "\uff0c", "U+FF0C")


def test_no_traceback_without_debug_and_one_with_it(tmp_path):
    done = train("none.json", "--debug", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: no configuration file")


def test_output_folder_in_use_not_empty_or_not_writable(inputs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    config = spoilt(inputs, tmp_path)
    done = train(config, "--output_dir", tmp_path / "full")
    assert_refused(done, 2, "is not empty", "--resume auto", "--overwrite_output_dir true")
    assert [path.name for path in (tmp_path / "full").iterdir() if path.suffix] == ["notes.txt"]
    done = train(config, "--output_dir", tmp_path / "full/notes.txt/run")
    assert_refused(done, 2, "output_dir", "cannot be written", "give another --output_dir")


def test_devices(inputs, tmp_path):
    config = spoilt(inputs, tmp_path)
    assert_refused(train(config, "--device", "nosuch"), 1, "nosuch")
    done = train(config, "--device", "cpu", "--fp16")
    assert_refused(done, 2, "dtype is float16", "cpu computes in float32", "--dtype float32")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"images": ["gone.png"], "messages": asks("<image>What?")},
            ["row 10", "gone.png", "does not exist"],
        ),
        ({"images": ["text.png"], "messages": asks("<image>What?")}, ["row 10", "text.png"]),
        ({"images": ["short.png"], "messages": asks("<image>What?")}, ["row 10", "short.png"]),
        ({"images": ["1.png"], "messages": asks("<image><image>What?")}, ["row 10", "2", "1"]),
        ({"images": ["1.png"], "messages": asks("What?")}, ["row 10"]),
        ({"images": [], "messages": asks("What?", "very " * 400)}, ["row 10", "tokens", "max_length is 128"]),
        ({"messages": []}, ["row 10"]),
    ],
)
def test_rows(inputs, tmp_path, row, says):
    config = with_data(inputs, tmp_path, **row)
    (tmp_path / "data/text.png").write_text("this is no picture")
    whole = (tmp_path / "data/1.png").read_bytes()
    (tmp_path / "data/short.png").write_bytes(whole[: len(whole) // 2])
    assert_refused(train(config, "--save_steps", "100"), 2, "train.json", *says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", ["train.json", "no rows"]),
        ("", ["train.json", "no rows"]),
        ("[{", ["train.json", "no valid JSON", "line 1"]),
        (None, ["train.json", "does not exist"]),
    ],
)
def test_data_sets(inputs, tmp_path, text, says):
    path = tmp_path / "train.json"
    if text is not None:
        path.write_text(text)
    assert_refused(train(spoilt(inputs, tmp_path, dataset=str(path))), 2, *says)
    assert not (tmp_path / "run").exists()


def test_no_data_set_and_no_model(inputs, tmp_path):
    assert_refused(train(spoilt(inputs, tmp_path, dataset={})), 2, "no rows to train on", "dataset")
    config = spoilt(inputs, tmp_path, model_name_or_path=str(tmp_path / "gone"))
    assert_refused(train(config), 2, str(tmp_path / "gone"), "expected a model folder")


def retensored(path: Path, change: Any) -> None:
    """Write a safetensors file again with its tensors changed."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def grown(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.endswith("norm.weight"))
    tensors[name] = np.ones(7, np.float32)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            ["truncated"],
        ),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60)), ["truncated"]),
        (lambda f: retensored(f / "model.safetensors", lambda t: t.pop(next(iter(t)))), ["lacks the weight"]),
        (lambda f: retensored(f / "model.safetensors", grown), ["norm.weight", "(7,)", "config.json"]),
        (lambda f: (f / "tokenizer.json").write_text("{}"), ["tokenizer.json"]),
        (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer"]),
        (lambda f: (f / "config.json").write_text("{"), ["config.json"]),
        (lambda f: (f / "preprocessor_config.json").unlink(), ["preprocessor_config.json"]),
    ],
)
def test_model_folders(inputs, tmp_path, damage, says):
    folder = write_checkpoint(tmp_path / "model", weights=True)
    damage(folder)
    config = spoilt(inputs, tmp_path, model_name_or_path=str(folder), from_scratch=False)
    assert_refused(train(config), 2, *says)


def test_freezing_everything_and_patterns_that_match_nothing(inputs, tmp_path):
    config = spoilt(inputs, tmp_path)
    assert_refused(
        train(config, "--freeze_include", "*vison*"), 2, "'*vison*' matches no parameter", "visual"
    )
    done = train(config, "--freeze_vit", "--freeze_llm", "--overwrite_output_dir")
    assert_refused(done, 2, "every parameter is frozen")


def test_a_bad_row_late_in_a_run_loses_nothing(inputs, tmp_path):
    """The picture that cannot be read comes up in some step; what was learned before it is saved."""
    config = with_data(inputs, tmp_path, images=["late.png"], messages=asks("<image>What?"))
    late = tmp_path / "data/late.png"
    late.write_text("this is no picture")
    words = (
        config,
        "--train_batch_size",
        "1",
        "--save_strategy",
        "no",
        "--shuffle",
        "false",
        "--max_steps",
        "12",
    )
    said = assert_refused(train(*words), 2, "row 10", "late.png", "step 9 is saved", "--resume auto")
    assert "Traceback" not in said
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(late)
    done = train(*words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
