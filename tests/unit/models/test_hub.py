"""Hub names: fetched from a local server that speaks the hub's interface, by a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mix_core.errors import BadInputError
from mix_core.models.common.hub import resolve_model_folder
from tests.builders.checkpoints import write_checkpoint
from tests.builders.hub_server import COMMIT, HubServer, hub_server

NAME = "Qwen/Qwen2.5-VL-3B-Instruct"
WEIGHTS = "model.safetensors"
RESOLVE = """
import json, sys
from mix_core.errors import MixError
from mix_core.models.common.hub import resolve_model_folder
try:
    found = {"folder": str(resolve_model_folder(*json.loads(sys.argv[1])))}
except MixError as error:
    found = {"error": str(error), "exit_code": error.exit_code}
found["paddle"] = "paddle" in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A model of 24 MiB, with files that must not be fetched."""
    folder = write_checkpoint(tmp_path_factory.mktemp("hub") / "model")
    values = np.random.default_rng(0).integers(0, 255, 24 << 20, dtype=np.uint8)
    save_file({"weight": values}, folder / WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04pickled")
    (folder / "README.md").write_text("a model card")
    return folder


@pytest.fixture
def server(published):
    with hub_server({NAME: published, "Qwen/Qwen-VL-Chat": published}) as state:
        yield state


def start(server: HubServer | str, home: Path, *arguments: str | None, **variables: str) -> subprocess.Popen:
    endpoint = server if isinstance(server, str) else server.endpoint
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, json.dumps(arguments)],
        env={
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def resolve(server: HubServer | str, home: Path, *arguments: str | None, **variables: str) -> dict:
    process = start(server, home, *arguments, **variables)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_folder_is_its_own_answer(tmp_path, monkeypatch):
    assert resolve_model_folder(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    assert resolve_model_folder("~/m") == tmp_path / "m"


@pytest.mark.parametrize("path", ["/no/such/folder", "./models/none", "a/b/c", "../x"])
def test_a_path_that_is_no_folder_is_named(path):
    with pytest.raises(BadInputError, match=f"no folder {path}"):
        resolve_model_folder(path)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match="is a file, expected a folder"):
        resolve_model_folder(tmp_path / "x.safetensors")


def test_a_name_is_fetched_once_and_only_what_is_needed(server, published, tmp_path):
    found = resolve(server, tmp_path, NAME)
    assert not found["paddle"]
    folder = Path(found["folder"])
    wanted = {p.name for p in published.iterdir()} - {"pytorch_model.bin", "README.md"}
    assert {p.name for p in folder.iterdir()} == wanted
    for name in wanted:
        assert (folder / name).read_bytes() == (published / name).read_bytes()
    assert server.gets("pytorch_model.bin") == server.gets("README.md") == []
    assert server.gets(WEIGHTS) == [None]

    again = resolve(server, tmp_path, NAME)
    assert again == found
    assert server.gets(WEIGHTS) == [None], "the second call fetched the weights again"


def test_a_connection_that_breaks_is_resumed_in_the_same_call(server, published, tmp_path):
    server.cut_after[WEIGHTS] = 15 << 20
    folder = Path(resolve(server, tmp_path, NAME)["folder"])
    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()
    first, second = server.gets(WEIGHTS)
    assert first is None
    assert second is not None and int(second.removeprefix("bytes=").rstrip("-")) >= 10 << 20


def test_a_killed_download_is_resumed_by_the_next_process(server, published, tmp_path):
    server.hang_after[WEIGHTS] = 15 << 20
    process = start(server, tmp_path, NAME)
    part = wait_for_part(tmp_path, 10 << 20)
    process.kill()
    process.communicate()
    had = part.stat().st_size
    assert 10 << 20 <= had < 24 << 20

    folder = Path(resolve(server, tmp_path, NAME)["folder"])
    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()
    assert server.gets(WEIGHTS) == [None, f"bytes={had}-"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_part_is_found_by_its_checksum(server, published, tmp_path):
    server.hang_after[WEIGHTS] = 15 << 20
    process = start(server, tmp_path, NAME)
    part = wait_for_part(tmp_path, 10 << 20)
    process.kill()
    process.communicate()
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    assert "checksum is wrong" in resolve(server, tmp_path, NAME)["error"]
    folder = Path(resolve(server, tmp_path, NAME)["folder"])
    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def wait_for_part(home: Path, size: int) -> Path:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for part in home.rglob("*.part"):
            if part.is_file() and part.stat().st_size >= size:
                return part
        time.sleep(0.05)
    raise AssertionError(f"no part file of {size} bytes appeared")


def test_names_of_the_guides_are_their_publishers(server, tmp_path):
    found = resolve(server, tmp_path, "qwen-vl/qwen-vl-chat-7b")
    assert "models--Qwen--Qwen-VL-Chat" in found["folder"]


def test_a_revision_is_asked_for(server, tmp_path):
    found = resolve(server, tmp_path, NAME, "v1.0")
    assert found["folder"].endswith(COMMIT)
    assert any(path.endswith("/revision/v1.0") for _, path, _ in server.requests)


def test_offline_uses_the_cache_and_asks_nobody(server, tmp_path):
    folder = resolve(server, tmp_path, NAME)["folder"]
    before = len(server.requests)
    assert resolve(server, tmp_path, NAME, HF_HUB_OFFLINE="1")["folder"] == folder
    assert len(server.requests) == before


def test_offline_without_a_cache_names_the_folder_to_provide(tmp_path):
    found = resolve("http://127.0.0.1:9", tmp_path, NAME, HF_HUB_OFFLINE="1")
    assert found["exit_code"] == 2
    assert "HF_HUB_OFFLINE is set" in found["error"]
    assert "provide a folder Qwen2.5-VL-3B-Instruct" in found["error"]
    assert "\n" not in found["error"]


def test_a_hub_that_cannot_be_reached_is_named(tmp_path):
    found = resolve("http://127.0.0.1:9", tmp_path, NAME)
    assert found["exit_code"] == 2
    assert "http://127.0.0.1:9" in found["error"]
    assert "provide a folder Qwen2.5-VL-3B-Instruct" in found["error"]
    assert "\n" not in found["error"]


def test_an_unreachable_hub_is_no_obstacle_for_a_cached_model(server, tmp_path):
    folder = resolve(server, tmp_path, NAME)["folder"]
    assert resolve("http://127.0.0.1:9", tmp_path, NAME)["folder"] == folder


def test_an_unknown_name_is_named(server, tmp_path):
    found = resolve(server, tmp_path, "Qwen/Qwen2.5-VL-3B-Instrcut")
    assert "Qwen/Qwen2.5-VL-3B-Instrcut cannot be fetched" in found["error"]
    assert "RepositoryNotFoundError" in found["error"]


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path):
    for step in (9, 120, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert resolve_model_folder(tmp_path) == tmp_path / "checkpoint-120"
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model_folder(tmp_path) == tmp_path
