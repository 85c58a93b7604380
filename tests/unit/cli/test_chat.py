"""`mix-core chat` without a model: lines, commands, pictures, stopping; as on a terminal and from a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from mix_core.cli.chat import HELP, Conversation, reply, talk
from mix_core.errors import BadInputError, DataError


class Parrot:
    """An engine that answers with the number of turns it sees, in two pieces."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.stop_after = 9
        self.error: Exception | None = None

    def stream(self, turns: list[dict[str, Any]], **generation: Any) -> Iterator[str]:
        self.asked.append(turns)
        if self.error is not None:
            raise self.error
        for number, piece in enumerate(["turns ", str(len(turns))]):
            if number == self.stop_after:
                raise KeyboardInterrupt
            yield piece


@pytest.fixture
def engine() -> Parrot:
    return Parrot()


def run(engine: Parrot, lines: list[str], *, forgiving: bool = True) -> tuple[str, Conversation]:
    written: list[str] = []
    conversation = Conversation(engine)
    talk(conversation, iter(lines), written.append, forgiving=forgiving)
    return "".join(written), conversation


def test_turns_are_remembered_until_cleared(engine):
    shown, _ = run(engine, ["hello\n", "", "  and now? \n", "/clear", "again", "/exit", "never read"])
    assert shown == "turns 1\nturns 3\n[forgotten]\nturns 1\n"
    roles = [turn["role"] for turn in engine.asked[1]]
    assert roles == ["user", "assistant", "user"]
    assert engine.asked[1][1]["content"] == "turns 1"
    assert engine.asked[1][2]["content"] == [{"type": "text", "text": "and now?"}]


def test_pictures_go_with_the_next_message_only(engine, tmp_path):
    for name, size in (("a b.png", (4, 3)), ("c.png", (5, 5))):
        Image.new("L", size).save(tmp_path / name)
    shown, conversation = run(
        engine,
        [f"/image {tmp_path}/a b.png", f'/image "{tmp_path}/c.png"', "is <image> like <image>?", "more"],
    )
    assert "a b.png: 4 x 3, shown with your next message" in shown
    first = engine.asked[0][0]["content"]
    assert [part["type"] for part in first] == ["text", "image", "text", "image", "text"]
    assert [part["image"].size for part in first if part["type"] == "image"] == [(4, 3), (5, 5)]
    assert engine.asked[1][2]["content"] == [{"type": "text", "text": "more"}]
    assert conversation.waiting == []


def test_errors_are_shown_and_leave_the_conversation_as_it_was(engine, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    lines = [
        f"/image {tmp_path}/a.png",
        "<image> <image>",
        "/image",
        "/image none.png",
        "/nonsense",
        "one <image>",
    ]
    shown, conversation = run(engine, lines)
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "2 image placeholder(s) and 1 image(s)" in errors[0] and "needs a path" in errors[1]
    assert "no such file" in errors[2] and "/nonsense is no command" in errors[3]
    assert len(engine.asked) == 1 and len(conversation.turns) == 2


def test_an_error_of_the_model_keeps_the_pictures_for_another_try(engine, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    engine.error = DataError("too small")
    shown, conversation = run(engine, [f"/image {tmp_path}/a.png", "what?"])
    assert "error: too small" in shown
    assert conversation.turns == [] and len(conversation.waiting) == 1


def test_a_pipe_stops_at_the_first_error(engine):
    with pytest.raises(BadInputError, match="/nonsense is no command"):
        run(engine, ["hello", "/nonsense", "never asked"], forgiving=False)
    assert len(engine.asked) == 1


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(engine):
    conversation = Conversation(engine)
    written: list[str] = []
    engine.stop_after = 1
    reply(conversation, "hello", written.append)
    assert "".join(written) == "turns  [stopped]\n"
    assert conversation.turns[-1] == {"role": "assistant", "content": "turns "}
    engine.stop_after = 0
    reply(conversation, "hello?", written.append)
    assert len(conversation.turns) == 2, "stopped before the first word: as if it had not been asked"


def test_ctrl_c_while_a_piece_is_shown(engine):
    conversation = Conversation(engine)

    def interrupted(text: str) -> None:
        if text == "turns ":
            raise KeyboardInterrupt

    reply(conversation, "hello", interrupted)
    assert conversation.turns[-1] == {"role": "assistant", "content": "turns "}


def test_help_and_a_message_that_begins_with_a_slash(engine):
    shown, _ = run(engine, ["/help", "//etc is a folder"])
    assert HELP in shown
    assert engine.asked[0][0]["content"] == [{"type": "text", "text": "/etc is a folder"}]


def test_videos_go_with_the_next_message_and_boxes_can_be_drawn(engine, tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(b"")
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    engine.seen_size = lambda picture: None
    lines = [
        f"/video {tmp_path}/none.mp4",
        f"/video {tmp_path}/v.mp4",
        "what?",
        f"/draw {tmp_path}/early.png",
        f"/image {tmp_path}/a.png",
        f"/draw {tmp_path}/nothing.png",
    ]
    shown, conversation = run(engine, lines)
    assert engine.asked[0][0]["content"][0] == {"type": "video", "video": f"{tmp_path}/v.mp4"}
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "no such file" in errors[0] and "needs a picture" in errors[1]
    assert shown.endswith("[no boxes in the last answer]\n") and conversation.waiting_videos == []
    conversation.turns[-1]["content"] = "<ref>it</ref><box>(1,2),(500,600)</box>"
    written: list[str] = []
    talk(conversation, iter([f"/draw {tmp_path}/out.png"]), written.append, forgiving=False)
    assert written == [f"[{tmp_path}/out.png: 1 box(es)]\n"] and (tmp_path / "out.png").stat().st_size > 0
