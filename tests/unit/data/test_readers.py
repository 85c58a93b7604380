"""Every form of rows, files and lists of sets, and every way in which they can be wrong."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from mix_core.data.conversations import read_messages
from mix_core.data.readers import dataset_files, parse_spec, read_dataset
from mix_core.errors import DataError


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON and return the path as text; pictures a.png and b.png lie beside it."""
    for name in ("a.png", "b.png", "Chongqing.jpeg", "Beijing.jpeg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def write(rows, name="rows.json"):
        (tmp_path / name).write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        return str(tmp_path / name)

    return write


def ask(question="Hi", answer="Hello", **keys):
    return {"messages": [turn("user", question), turn("assistant", answer)], **keys}


def turn(role, content):
    return {"role": role, "content": content}


def qwen(question, answer="Yes"):
    return {"conversations": [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]}


def image(path):
    return {"type": "image", "image": str(path)}


def text(value):
    return {"type": "text", "text": value}


def test_llava_rows_with_and_without_an_image(write, tmp_path):
    rows = read_dataset(
        write(
            [
                {
                    "id": "x7",
                    "image": "a.png",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhat is it?"},
                        {"from": "gpt", "value": "A cat."},
                        {"from": "human", "value": "Sure?"},
                        {"from": "gpt", "value": "Yes, <image> or not."},
                    ],
                },
                {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            ]
        )
    )
    assert rows[0] == {
        "messages": [
            turn("user", [image(tmp_path / "a.png"), text("\nWhat is it?")]),
            turn("assistant", "A cat."),
            turn("user", "Sure?"),
            turn("assistant", "Yes, <image> or not."),
        ],
        "task": None,
        "id": "x7",
        "source": f"{tmp_path / 'rows.json'} row 1",
    }
    assert rows[1]["messages"] == [turn("user", "Hi"), turn("assistant", "Hello")]
    assert rows[1]["id"] == 2


def test_qwen_vl_rows_as_the_guide_prints_them(write, tmp_path):
    url = "https://example.com/000000004505.jpg"
    rows = read_dataset(
        write(
            [
                {
                    "id": "identity_1",
                    "conversations": [
                        {"from": "user", "value": f"Picture 1: <img>{url}</img>\n图中的巴士是什么颜色的？"},
                        {"from": "assistant", "value": "红色的。"},
                        {"from": "user", "value": "框出图中的巴士的位置"},
                        {"from": "assistant", "value": "<ref>巴士</ref><box>(178,279),(806,884)</box>"},
                    ],
                },
                {
                    "conversations": [
                        {
                            "from": "user",
                            "value": "Picture 1: <img>Chongqing.jpeg</img>\n"
                            "Picture 2: <img>Beijing.jpeg</img>\n图中都是哪",
                        },
                        {"from": "assistant", "value": "重庆, 北京"},
                    ]
                },
            ]
        )
    )
    first, second = (row["messages"] for row in rows)
    assert first[0]["content"] == [text("Picture 1: "), image(url), text("\n图中的巴士是什么颜色的？")]
    assert first[2:] == [
        turn("user", "框出图中的巴士的位置"),
        turn("assistant", "<ref>巴士</ref><box>(178,279),(806,884)</box>"),
    ]
    assert second[0]["content"] == [
        text("Picture 1: "),
        image(tmp_path / "Chongqing.jpeg"),
        text("\nPicture 2: "),
        image(tmp_path / "Beijing.jpeg"),
        text("\n图中都是哪"),
    ]


def test_messages_rows_with_placeholders_parts_and_videos(write, tmp_path):
    (tmp_path / "v.mp4").touch()
    rows = read_dataset(
        write(
            [
                ask("<image><image>Which?", images=["a.png", "b.png"], task="pick"),
                ask("<video>What?", videos=[{"video": "v.mp4", "fps": 2}]),
                ask([{"type": "image"}, text("<image> in a part is text")], images=["a.png"]),
                ask(
                    [{"type": "image", "image": "b.png", "max_pixels": 64}, {"type": "text", "text": "Why?"}]
                ),
                ask([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
                ask("<video>", videos=[["a.png", "b.png"]]),
            ]
        )
    )
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    contents = [row["messages"][0]["content"] for row in rows]
    assert rows[0]["task"] == "pick" and contents[0] == [image(a), image(b), text("Which?")]
    assert contents[1] == [{"type": "video", "video": str(tmp_path / "v.mp4"), "fps": 2}, text("What?")]
    assert contents[2] == [image(a), text("<image> in a part is text")]
    assert contents[3] == [image(b) | {"max_pixels": 64}, text("Why?")]
    assert contents[4] == [image("data:image/png;base64,AA==")]
    assert contents[5] == [{"type": "video", "video": [a, b]}]


def test_caption_and_question_rows(write, tmp_path):
    path = write(
        [
            {"image": "a.png", "caption": ["A cat.", "A dog."], "image_id": "coco_1"},
            {
                "image": "a.png",
                "question": "How many?",
                "answer": ["2", "3", "3", "2", "4"],
                "dataset": "vqa",
            },
            {"question": "Why?", "answer": "So."},
        ]
    )
    for prompt in (None, "What is this?"):
        rows = read_dataset([{"data_files": path, "prompt": prompt, "name": "coco_caption"}])
        caption, question, text_only = (row["messages"] for row in rows)
        shown = image(tmp_path / "a.png")
        assert caption[0]["content"] == [shown, text(prompt or "Describe the image.")]
        assert caption[1] == turn("assistant", "A cat.")
        assert question == [turn("user", [shown, text("How many?")]), turn("assistant", "2")]
        assert text_only == [turn("user", "Why?"), turn("assistant", "So.")]


def test_pairs_of_question_and_answer(write, tmp_path):
    rows = read_dataset(
        write(
            [
                {"image": "a.png", "conversations": [["<image>\nWhat?", "A cat."], ["Sure?", "Yes."]]},
                {"conversations": [["Picture 1: <img>b.png</img>\nWhat?", "A dog."]]},
            ]
        )
    )
    first, second = (row["messages"] for row in rows)
    assert first[0] == turn("user", [image(tmp_path / "a.png"), text("\nWhat?")])
    assert first[1:] == [turn("assistant", "A cat."), turn("user", "Sure?"), turn("assistant", "Yes.")]
    assert second[0]["content"] == [text("Picture 1: "), image(tmp_path / "b.png"), text("\nWhat?")]


def test_a_set_may_have_its_own_folder_of_pictures(write, tmp_path):
    (tmp_path / "sets").mkdir()
    path = write([ask("<image>", images=["a.png"])], "sets/rows.json")
    rows = read_dataset([{"data_files": path, "root": str(tmp_path)}], image_root=tmp_path / "elsewhere")
    assert rows[0]["messages"][0]["content"] == [image(tmp_path / "a.png")]


def test_bad_rows_may_be_kept_until_they_are_asked_for(write):
    path = write([ask("a"), {"text": "Hi"}, ask("<image>", images=["gone.png"]), ask("b")])
    rows = read_dataset(path, keep_bad=True)
    assert [row is not None for row in rows.usable()] == [True, False, False, True]
    with pytest.raises(DataError, match=r"rows\.json row 3: the file .*gone\.png does not exist"):
        rows[2]
    lines = write('{"messages": [}\n' + json.dumps(ask("b")), "rows.jsonl")
    kept = read_dataset(lines, keep_bad=True)
    assert kept[1]["messages"][0]["content"] == "b" and kept.source(0) == f"{lines} row 1"


def test_text_about_html_stays_text():
    row = {
        "conversations": [{"from": "human", "value": "Write <img> tags"}, {"from": "gpt", "value": "<img>"}]
    }
    assert read_messages(row, None)[0]["content"] == "Write <img> tags"


def test_json_lines_and_a_byte_order_mark(write):
    lines = "\ufeff" + "\n".join(json.dumps(ask(f"q{n}")) for n in range(3)) + "\n\n"
    rows = read_dataset(write(lines, "rows.jsonl"))
    assert [row["messages"][0]["content"] for row in rows] == ["q0", "q1", "q2"]
    assert [*rows] == [*read_dataset(write(lines, "rows.jsonl"))] and rows[1:] == [rows[1], rows[2]]


def test_comma_lists_caps_and_repeats(write):
    a = write([ask(f"a{n}") for n in range(5)], "a.json")
    b = write([ask(f"b{n}") for n in range(4)], "b.json")

    def read(spec, **options):
        return [row["messages"][0]["content"] for row in read_dataset(spec, **options)]

    assert read(f"{a},{b}#2") == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]
    assert read(f"{a}, {b}", max_samples=1) == ["a0", "b0"]
    assert read([{"data_files": a, "max_samples": 2, "repeat_time": 2.5}]) == ["a0", "a1"]  # mixing repeats
    assert [one.repeat_time for one in parse_spec([{"data_files": b, "repeat_time": 0.5}])] == [0.5]
    assert [str(path) for path in dataset_files(f"{a},{b}#2,{a}")] == [a, b]
    assert [one.name for one in parse_spec([{"name": "mine", "data_files": f"{a},{b}"}])] == ["mine", "mine"]


def test_images_may_lie_in_another_folder(write, tmp_path):
    (tmp_path / "sets").mkdir()
    path = write([ask("<image>", images=["a.png"])], "sets/rows.json")
    rows = read_dataset(path, image_root=tmp_path)
    assert rows[0]["messages"][0]["content"] == [image(tmp_path / "a.png")]
    with pytest.raises(DataError, match=r"sets/rows\.json row 1: the file .*sets/a\.png does not exist"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ask("<image><image>?", images=["a.png"]), r"2 <image> placeholder\(s\) and 1 image\(s\)"),
        (ask("no placeholder", images=["a.png", "b.png"]), r"0 <image> placeholder\(s\) and 2 image\(s\)"),
        (ask("<image>"), r"1 <image> placeholder\(s\) and 0 image\(s\)"),
        (ask("<video>", images=[]), r"1 <video> placeholder\(s\) and 0 video\(s\)"),
        (ask("<image>", image="gone.png"), r"gone\.png does not exist"),
        (ask("<image>", image="."), r"is a folder"),
        ({"messages": [turn("robot", "Hi")]}, r"the role 'robot', expected one of human, user"),
        ({"messages": [turn("user", None)]}, r"a turn of user has null as its text"),
        ({"messages": [turn("user", [{"type": "audio"}])]}, r"the type 'audio', expected text, image"),
        ({"messages": []}, r"no list of messages or conversations; the row's keys are messages"),
        ({"text": "Hi"}, r"the row's keys are text"),
        (
            {"conversations": [{"from": "human"}]},
            r'turn 1: the key "value" is missing; the turn\'s keys are from',
        ),
        (
            {"conversations": [{"value": "Hi"}]},
            r'turn 1: the key "from" is missing; the turn\'s keys are value',
        ),
        ({"messages": [turn("user", "Hi"), {"role": "assistant"}]}, r'turn 2: the key "content" is missing'),
        ({"messages": [{"content": "Hi"}]}, r'turn 1: the key "role" is missing'),
        ({"conversations": [["Hi", "a", "b"]]}, r"pair 1 of conversations has 3 texts"),
        ({"image": "a.png", "question": "What?"}, r'the key "answer" is missing; the row\'s keys are image'),
        ({"image": "a.png", "caption": 7}, r"question and caption must be texts"),
        ({"image": "a.png", "question": None, "answer": "a"}, r"question and answer must be texts"),
        (
            ask("<image>"),
            r"1 <image> placeholder\(s\) and 0 image\(s\) \(the row has no key image or images\)",
        ),
        (qwen("Picture 1: <img>a.png\nWhat?"), r"turn 1: <img> has no </img> on its line, at '<img>a\.png'"),
        (qwen("<img>a.png\n<img>b.png</img>"), r"<img> has no </img> on its line, at '<img>a\.png'"),
        (qwen("<img>a.png <img>b.png</img>"), r"<img> has no </img> on its line, at '<img>a\.png <img>"),
        (
            qwen("Hi", "<box>(1,2),(1000,4)</box>"),
            r"turn 2: <box>\(1,2\),\(1000,4\)</box> reaches outside \[0, 1000\)",
        ),
        (qwen("<box>(-1,2),(3,4)</box>?"), r"turn 1: <box>\(-1,2\),\(3,4\)</box> reaches outside"),
        (["Hi"], r"a row is a list, expected an object"),
    ],
)
def test_a_wrong_row_is_named_with_what_is_wrong(write, row, message):
    path = write([ask(), row])
    with pytest.raises(DataError, match=re.escape(path) + " row 2: .*" + message) as caught:
        read_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no rows"),
        ("", "holds no rows"),
        ("[1, 2", r"no valid JSON: line 1, column 6"),
        ('"text"', "holds str, expected a list of rows"),
        ('{"messages": []}\n{"messages": ]}\n', r"neither a JSON list nor JSON lines: line 2, column 14"),
        ('{\n "rows": []\n}', r"neither a JSON list nor JSON lines: line 1"),
    ],
)
def test_a_wrong_file_is_named_with_its_place(write, content, message):
    with pytest.raises(DataError, match=r"the data set .*wrong\.json .*" + message):
        read_dataset(write(content, "wrong.json"))


def test_missing_files_and_wrong_specifications(tmp_path, write):
    with pytest.raises(DataError, match=r"gone\.json does not exist \(looked in "):
        read_dataset("gone.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_dataset(str(tmp_path))
    (tmp_path / "bytes.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(DataError, match="is not UTF-8 text: byte 1"):
        read_dataset(str(tmp_path / "bytes.json"))
    with pytest.raises(DataError, match="asks for 0 rows"):
        read_dataset(write([ask()]) + "#0")
    with pytest.raises(DataError, match="names no file"):
        read_dataset(" , ")
