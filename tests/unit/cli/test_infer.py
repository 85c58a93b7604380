"""`mix-core infer` without a model: what it refuses before it loads one, and a stdout for results only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mix_core.cli.infer import PictureFile
from mix_core.errors import BadInputError
from mix_core.inference.grounding import Box

NOISY = """
import ctypes, json, os, sys
from mix_core.cli.output import only_results_on_stdout
with only_results_on_stdout() as write:
    print("a library prints")
    ctypes.CDLL(None).puts(b"a C library prints")
    ctypes.CDLL(None).fflush(None)
    os.system("echo a child prints")
    if "again" in sys.argv and os.environ.get("AGAIN") != "1":
        os.environ["AGAIN"] = "1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    write(json.dumps({"text": "\u6570"}, ensure_ascii=False))
print("afterwards")
"""


@pytest.mark.parametrize("arguments", [[], ["again"]], ids=["once", "started again"])
def test_only_results_reach_stdout(arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", NOISY, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    result, after = done.stdout.splitlines()
    assert json.loads(result) == {"text": "数"} and after == "afterwards"
    times = 2 if arguments else 1
    for line in ("a library prints", "a C library prints", "a child prints"):
        assert done.stderr.splitlines().count(line) == times


def test_errors_come_out_too_and_stdout_is_put_back():
    code = NOISY.replace("write(json", "raise SystemExit(7)\n    write(json")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7 and done.stdout == ""


def test_picture_file_is_checked_before_there_is_anything_to_write(tmp_path):
    for name, reason in (
        ("out", "no suffix is no picture format"),
        ("out.txt", ".txt is no picture format"),
        ("none/out.png", "cannot be written"),
    ):
        with pytest.raises(BadInputError, match=reason) as error:
            PictureFile(str(tmp_path / name), has_picture=True)
        assert "\n" not in str(error.value)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadInputError, match="cannot be written"):
        PictureFile(str(tmp_path / "folder.png"), has_picture=True)
    with pytest.raises(BadInputError, match="give --image"):
        PictureFile(str(tmp_path / "out.png"), has_picture=False)
    PictureFile(None, has_picture=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.png"], "checking writes nothing"


def test_picture_file_draws_or_says_that_there_is_nothing_to_draw(tmp_path, capsys):
    path = tmp_path / "out.png"
    picture = Image.new("RGB", (20, 20))
    PictureFile(str(path), has_picture=True).write(picture, [])
    assert not path.exists() and "no boxes in the answer" in capsys.readouterr().err
    PictureFile(str(path), has_picture=True).write(picture, [Box("", 100, 100, 900, 900)])
    assert "1 box(es) drawn" in capsys.readouterr().err
    with Image.open(path) as drawn:
        assert drawn.getcolors(1 << 20) is not None and len(drawn.getcolors(1 << 20)) > 1


def mix_core(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mix_core.cli.main", *arguments], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prompt", "a", "--image", "none.png"], "image none.png: there is no such file"),
        (["--prompt", "a", "--image", "broken.png"], "image broken.png"),
        (["--prompt", "<image> a"], "1 image placeholder(s) and 0 image(s)"),
        (["--prompt", "a", "--draw", "out.png"], "--draw needs a picture"),
        (["--prompt", "a", "--image", "ok.png", "--draw", "none/out.png"], "none/out.png cannot be written"),
        (["--prompt", "a", "--kernels", "fast"], "--kernels is fast, expected auto or reference"),
        (["--prompt", "a", "--dtype", "int3"], "dtype is 'int3', expected one of float32"),
        (["--prompt", "a", "--weights", "int4"], "weights is 'int4', expected int8, or nothing for float32"),
        (["--prompt", "a", "--weights", "int8", "--dtype", "bfloat16"], "int8 weights need dtype float32"),
        (["--prompt", "a", "--model", "./nothing"], "nothing"),
        (["--prompt", "a", "--model", "empty"], "config.json"),
    ],
)
def test_bad_input_is_one_line_and_comes_before_paddle(tmp_path, arguments, expected):
    Image.new("L", (8, 8)).save(tmp_path / "ok.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "ok.png").read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    model = [] if "--model" in arguments else ["--model", "empty"]
    code = (
        "import sys; from mix_core.cli import main; sys.argv[0] = 'mix-core'\n"
        "try: main.main()\n"
        "finally: print('PADDLE' if 'paddle' in sys.modules else 'no paddle')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", *model, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    assert done.stdout == "no paddle\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
