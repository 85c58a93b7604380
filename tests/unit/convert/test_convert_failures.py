"""What a conversion must not do: run what a pickle in shards asks for, hide a wrong weight, leave halves."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mix_core.convert.pickled_arrays import BIG_SLICES, read_pickled_arrays
from mix_core.convert.run import Form, convert
from mix_core.errors import WeightsError
from tests.builders.convertible import CONFIGS, tensors_of, write_model


class Call:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Shaped(np.ndarray):
    """An array whose pickled state holds the call instead of the bytes."""

    call: Call

    def __reduce__(self):
        make, _, state = super().__reduce__()
        return make, (np.ndarray, (0,), b"b"), (*state[:4], self.call)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("source") / "model", CONFIGS["internvl2 qwen2"], "F32")


@pytest.fixture
def sharded(source, tmp_path) -> Path:
    convert(source, tmp_path / "pd", to="paddle", form=Form(max_shard_bytes=60_000))
    return tmp_path / "pd"


def shards_of(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("*.pdparams"))
    assert len(shards) > 1
    return shards


def refused(folder: Path, reason: str, **keys) -> None:
    target = folder.parent / "back"
    with pytest.raises(WeightsError, match=reason) as error:
        convert(folder, target, to="published", **keys)
    assert "\n" not in str(error.value)
    assert not target.exists() and not list(folder.parent.glob(".back*")), "nothing is left"


def attacks(state: dict, call: Call) -> dict[str, object]:
    """A sound shard with the call at ever other places."""
    name = next(iter(state))
    shaped = np.zeros(2, np.float32).view(Shaped)
    shaped.call = call
    return {
        "as a weight": {**state, name: call},
        "in a pair": {**state, name: (call, state[name])},
        "in a pair, second": {**state, name: ("inner", call)},
        "deep in lists": {**state, name: [[[{"a": ({"b": [call]},)}]]]},
        "in the inner names": {**state, "StructuredToParameterName@@": {"a": call}},
        "in the table of cut arrays": {**state, BIG_SLICES: {name: {"slices": call, "OriginShape": (1,)}}},
        "as an array's state": {**state, name: shaped},
        "in an array of objects": {**state, name: np.array([call], dtype=object)},
        "as the whole": call,
    }


@pytest.mark.parametrize("name", list(attacks({"w": 0}, Call(""))))
def test_a_malicious_shard_executes_nothing(sharded, tmp_path, name):
    canary = tmp_path / "executed"
    last = shards_of(sharded)[-1]
    state = {key: one.read() for key, one in read_pickled_arrays(last).items()}
    attack = attacks(state, Call(f"touch {canary}"))[name]
    last.write_bytes(pickle.dumps(attack, protocol=4))
    refused(sharded, re.escape(last.name))
    assert not canary.exists()
    with contextlib.suppress(TypeError):  # an array cannot be filled with what the call gave
        pickle.loads(last.read_bytes())
    assert canary.exists(), "the attack is real"


@pytest.mark.parametrize("place", ["a weight", "deep in args", "the optimizer", "the old format"])
def test_a_malicious_rank_executes_nothing(source, tmp_path, place):
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=Form(ranks=2))
    canary = tmp_path / "executed"
    call = Call(f"touch {canary}")
    file = tmp_path / "mm/release/mp_rank_01/model_optim_rng.pt"
    state = torch.load(file, weights_only=True)
    if place in ("a weight", "the old format"):
        state["model"]["text_decoder.decoder.final_layernorm.weight"] = call
    elif place == "deep in args":
        state["args"] = argparse.Namespace(lr=[{"a": (call,)}])
    else:
        state["optimizer"] = {"param_groups": [{"lr": call}]}
    torch.save(state, file, _use_new_zipfile_serialization=place != "the old format")
    refused(tmp_path / "mm", "mp_rank_01/model_optim_rng.pt is refused or damaged", base=source)
    assert not canary.exists()


def test_wrong_weights_are_named_with_their_file(sharded, source, tmp_path):
    first, last = shards_of(sharded)[0], shards_of(sharded)[-1]
    whole = {key: one.read() for key, one in read_pickled_arrays(last).items()}
    name, values = next((key, values) for key, values in whole.items() if values.ndim == 2)
    for change, reason in (
        ({name: values[1:]}, rf"{name} has shape .* in .*{last.name}, config.json asks for"),
        ({"other.weight": values}, rf"{last.name} holds other.weight, which config.json does not ask for"),
        ({name: values.view(np.uint8)}, rf"{last.name}: {name} has dtype uint8"),
        ({"language_model.model.norm.weight": values}, f"{last.name} holds language_model.model.norm.weight"),
    ):
        last.write_bytes(pickle.dumps(whole | change, protocol=4))
        refused(sharded, reason)
    last.write_bytes(pickle.dumps({key: one for key, one in whole.items() if key != name}, protocol=4))
    refused(sharded, "lacks the weight ")
    twice = read_pickled_arrays(first)
    last.write_bytes(pickle.dumps(whole | {next(iter(twice)): values}, protocol=4))
    refused(sharded, rf"twice, in {last.name} and in {first.name}")
    last.unlink()
    refused(sharded, f"{last.name} is missing")
    convert(source, tmp_path / "mm", to="mindspeed-mm", form=Form("[4,0]", "[2,3]"))
    file = tmp_path / "mm/release/mp_rank_00_001/model_optim_rng.pt"
    state = torch.load(file, weights_only=True)
    state["model"]["text_decoder.decoder.final_layernorm.weight"] = torch.zeros(3)
    torch.save(state, file)
    refused(tmp_path / "mm", "mp_rank_00_001/model_optim_rng.pt: text_decoder.*is float32", base=source)
    state["model"]["text_decoder.more"] = torch.zeros(3)
    del state["model"]["text_decoder.decoder.final_layernorm.weight"]
    torch.save(state, file)
    refused(tmp_path / "mm", "lacks the weight .*final_layernorm", base=source)


FULL = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from mix_core.cli import main
main.main()
"""


@pytest.mark.parametrize(
    "to",
    [
        "paddle",
        "mindspeed-mm",
        *(pytest.param(to, marks=pytest.mark.slow) for to in ("published", "paddle --safe_serialization")),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(source, tmp_path, to):
    """As a process that may write no file of more than 60 kB; the weights have more in each layout."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, "convert", str(source), str(tmp_path / "new"), "--to", *to.split()],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"error: .*new was not written: no space left; .* MB.*\n", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_max_shard_size_is_read_and_refused(source, tmp_path, capsys):
    from mix_core.cli.main import build_app, guarded

    argv = ["convert", str(source), str(tmp_path / "pd"), "--to", "paddle", "--max_shard_size", "50KB"]
    assert guarded(lambda: build_app()(args=argv, standalone_mode=False), argv) == 0
    index = json.loads((tmp_path / "pd/model_state.pdparams.index.json").read_text())
    sizes = [len(bits) for _, _, bits in tensors_of(source).values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert all(path.stat().st_size < 60_000 + max(sizes) for path in shards_of(tmp_path / "pd"))
    argv[-1] = "much"
    assert guarded(lambda: build_app()(args=argv, standalone_mode=False), argv) == 2
    assert "--max_shard_size is 'much', expected a size such as 5GB" in capsys.readouterr().err
