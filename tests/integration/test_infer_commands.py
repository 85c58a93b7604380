"""`mix-core infer` and `mix-core chat` as processes, on a folder whose answer is known; a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.reciting_model import write_reciting_model

ANSWER = "<ref>the 7</ref><box>(250,250),(750,500)</box>"
SPOKEN = "数é7!"


@pytest.fixture(scope="module")
def boxes_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reciting_model(tmp_path_factory.mktemp("boxes"), ANSWER, whole=True)


@pytest.fixture(scope="module")
def speaking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reciting_model(tmp_path_factory.mktemp("speaking"), SPOKEN)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "it.png"
    Image.new("RGB", (40, 40), "white").save(path)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mix_core.cli.main", *map(str, arguments)]


def mix_core(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, encoding="utf-8", input=stdin, timeout=120
    )


def test_infer_prints_the_answer(boxes_model, picture):
    done = mix_core(
        "infer", "--model", boxes_model, "--image", picture, "--prompt", "where?", "--device", "cpu"
    )
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr


def test_infer_json_is_all_of_stdout_and_draw_draws(boxes_model, picture, tmp_path):
    drawn = tmp_path / "out.png"
    done = mix_core(
        *("infer", "--model", boxes_model, "--image", picture, "--image", picture, "--prompt", "where?"),
        *("--json", "--draw", drawn, "--seed", "7", "--temperature", "0.5", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"] == ANSWER
    assert found["boxes"] == [{"label": "the 7", "box": [250, 250, 750, 500]}]
    assert (found["new_tokens"], found["finish"], found["device"], found["seed"]) == (2, "stop", "cpu", 7)
    assert found["prompt_tokens"] > 20 and found["seconds"] > 0 and found["drawn"] == str(drawn)
    with Image.open(drawn) as image:
        assert max(image.size) >= 512, "a tiny picture is enlarged"
        colour = image.getpixel((image.width // 4 + 60, round(image.height * 0.25)))
        assert colour != (255, 255, 255), "the box's upper edge"
        assert image.getpixel((image.width - 4, image.height - 4)) == (255, 255, 255)


def test_infer_length_and_stop(speaking_model):
    cut = mix_core("infer", "--model", speaking_model, "--prompt", "say", "--max_new_tokens", 3, "--json")
    assert json.loads(cut.stdout)["finish"] == "length" and json.loads(cut.stdout)["new_tokens"] == 3
    stopped = mix_core("infer", "--model", speaking_model, "--prompt", "say", "--stop", "7")
    assert stopped.stdout == SPOKEN.partition("7")[0] + "\n"


def test_infer_without_boxes_to_draw_is_no_error(speaking_model, picture, tmp_path):
    drawn = tmp_path / "out.png"
    done = mix_core(
        "infer", "--model", speaking_model, "--image", picture, "--prompt", "where?", "--draw", drawn
    )
    assert done.returncode == 0 and done.stdout == SPOKEN + "\n"
    assert "no boxes in the answer" in done.stderr and not drawn.exists()


def test_infer_refuses_a_dtype_that_the_device_lacks(speaking_model):
    done = mix_core(
        "infer", "--model", speaking_model, "--prompt", "a", "--dtype", "bfloat16", "--device", "cpu"
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: dtype is bfloat16, but device cpu computes in float32; give one of those\n"


def test_infer_refuses_damaged_weights_in_one_line(speaking_model, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(speaking_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = mix_core("infer", "--model", broken, "--prompt", "a", "--json")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "truncated" in line and "Traceback" not in done.stderr


def test_chat_from_a_pipe(speaking_model, picture):
    lines = f"hello\n\n/image {picture}\nand this?\n/clear\nonce more\n/exit\nnot read\n"
    done = mix_core("chat", "--model", speaking_model, stdin=lines)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said == [
        SPOKEN,
        f"[{picture}: 40 x 40, shown with your next message]",
        SPOKEN,
        "[forgotten]",
        SPOKEN,
    ]
    wrong = mix_core("chat", "--model", speaking_model, stdin="hello\n/image none.png\nnot asked\n")
    assert wrong.returncode == 2 and wrong.stdout.splitlines() == [SPOKEN]
    assert wrong.stderr == "error: image none.png: there is no such file\n"


class Terminal:
    """A process on a pseudo terminal of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self.ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        # a test run in the background hands on an ignored Ctrl-C, which no terminal does
        self.process = subprocess.Popen(
            arguments,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Everything until `text` has come; what follows it stays for the next call."""
        until = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"no {text!r} within {timeout_s} s; seen: {self.seen!r}"
            try:
                piece = os.read(self.ours, 4096)
            except OSError:  # Linux reports the closed other end as an error
                piece = b""
            assert piece, f"ended before {text!r}; seen: {self.seen!r}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece.decode(errors="replace")).replace(
                "\r", ""
            )
        before, _, self.seen = self.seen.partition(text)
        return before

    def end(self) -> int:
        """Wait for the end -> exit code; `seen` then holds all that was not waited for."""
        code = self.process.wait(timeout=60)
        while select.select([self.ours], [], [], 0)[0]:
            try:
                piece = os.read(self.ours, 4096)
            except OSError:
                break
            self.seen += piece.decode(errors="replace")
        os.close(self.ours)
        return code


def test_chat_on_a_terminal(speaking_model, picture):
    terminal = Terminal(command("chat", "--model", speaking_model, "--device", "cpu"))
    terminal.wait_for("/help lists the commands.")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for(f"\n{SPOKEN}\n> ")
    terminal.type(f"/image {picture}\n")
    terminal.wait_for("40 x 40")
    terminal.type("what is it?\n")
    terminal.wait_for(f"\n{SPOKEN}\n> ")
    terminal.type("/image nothing.png\n")
    terminal.wait_for("error: image nothing.png: there is no such file\n> ")
    terminal.type("still there?\n")
    terminal.wait_for(f"\n{SPOKEN}\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_at_the_prompt_leaves_without_a_traceback(speaking_model):
    terminal = Terminal(command("chat", "--model", speaking_model))
    terminal.wait_for("> ")
    # CPython's line editor misses a signal between its prompt and its wait for a key; a user presses again
    for _ in range(20):
        os.killpg(terminal.process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.process.wait(timeout=1)
            break
    assert terminal.end() in (130, -signal.SIGINT), "which a shell calls 130 too"
    assert "Traceback" not in terminal.seen
