"""Chat templates of one's own: PaddleNLP's file rendered as by hand, its turns as labels, names, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common import template_sandbox
from mix_core.models.common.chat_template import MARKS, ChatTemplate
from mix_core.models.common.custom_template import NAMED, load_template, visual_words
from mix_core.models.common.supervision import learned_spans
from mix_core.models.registry import family_of_folder
from mix_core.training.processors import make_processor
from tests.builders.checkpoints import CHAT_TEMPLATE, write_checkpoint

QWEN = {
    "system": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>",
    "conversation": [
        "\n<|im_start|>user\n{{user}}<|im_end|>\n<|im_start|>assistant\n",
        "{{bot}}<|im_end|>",
    ],
    "query": "\n<|im_start|>user\n{{query}}<|im_end|>\n<|im_start|>assistant\n",
}
"""The form that PaddleNLP gives with Qwen."""
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def user(text: str, *pictures: str) -> dict[str, Any]:
    if not pictures:
        return {"role": "user", "content": text}
    parts = [{"type": "image", "image": one} for one in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def bot(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def own() -> ChatTemplate:
    return ChatTemplate(CHAT_TEMPLATE, origin="the folder's template")


def written(folder: Path, content: Any, name: str = "chat_template.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_a_question_after_a_turn(tmp_path, own):
    template = load_template(written(tmp_path, QWEN), own)
    text = template.render([user("Hi", "a.png"), bot("Yes."), user("So?\n")], add_generation_prompt=True)
    assert text == (
        f"{HEAD}\n<|im_start|>user\n{PICTURE}Hi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
        "\n<|im_start|>user\nSo?\n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_labels_are_the_second_pieces(tmp_path, own):
    template = load_template(written(tmp_path, QWEN), own)
    messages = [user("a"), bot("b"), user("c"), bot(" d\n")]
    text, spans = learned_spans(template, messages, stop_texts=("<|im_end|>",))
    assert text == template.render(messages) and "\ue0f0" not in text
    assert [text[start:end] for start, end in spans] == ["b<|im_end|>", " d\n<|im_end|>"]
    assert learned_spans(template, messages, stop_texts=(), mask_history=True)[1] == spans[1:]
    assert learned_spans(template, messages, stop_texts=(), train_on_prompt=True)[1] == [(0, len(text))]


def test_pieces_see_the_turn_and_keep_their_blanks(tmp_path, own):
    """`query` differs from the first piece, and pieces begin and end with line ends and blanks."""
    pieces = {
        "system": "\n{% if true %}\n  S: {{ system }}\n  {% endif %}\n",
        "conversation": [
            "\n[{{index}}{{ ' first' if is_first }}{{ ' last' if is_last }} of {{length}}] {{user}} ",
            "{{bot}}|{{user}}{% if is_training %}!{% endif %}\n",
        ],
        "query": "Q{{index}}: {{query}}  ",
    }
    template = load_template(written(tmp_path, pieces), own)
    messages = [{"role": "system", "content": "be"}, user("a"), bot("b"), user("c")]
    # Worked out by hand with Jinja's trim_blocks: a line end after a block goes, other blanks stay.
    assert template.render(messages, add_generation_prompt=True) == (
        "\n  S: be\n\n[0 first of 2] a b|aQ1: c  "
    )
    text, spans = template.answers([*messages, bot("d")])
    assert [text[start:end] for start, end in spans] == ["b|a!", "d|c!"]
    assert text.endswith("b|a!\n[1 last of 2] c d|c!")


@pytest.mark.parametrize(
    "pieces",
    [
        QWEN,
        *NAMED.values(),
        {
            "system": "S\n \n",
            "conversation": [
                "{# c #}\n {% if is_first %} F {% endif %} {{ user | trim }}\n\n",
                " {{bot}} \n",
            ],
            "query": "\n{% for i in range(index) %}\n{{ i }}\n{% endfor %}\n>> {{query}}\n",
        },
    ],
)
def test_as_paddlenlp_renders_it(tmp_path, own, pieces):
    """PaddleNLP renders each piece alone, in an environment that keeps the last line end; so is it here."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    turns = [(" a\n", "b"), ("c", "\nd "), ("e", None)]
    expected = environment.from_string(pieces["system"]).render()
    for index, (asked, answer) in enumerate(turns):
        seen = {"index": index, "is_first": index == 0, "is_last": index == 2, "length": 3}
        names = ("query",) if answer is None else ("user", "bot")
        for piece in [pieces["query"]] if answer is None else pieces["conversation"]:
            expected += environment.from_string(piece).render(**seen, **dict(zip(names, (asked, answer))))
    messages = [make(text) for pair in turns for make, text in zip((user, bot), pair) if text is not None]
    found = load_template(written(tmp_path, pieces), own).render(messages, add_generation_prompt=True)
    assert found == expected


def test_without_query_the_question_itself_is_written(tmp_path, own):
    template = load_template(written(tmp_path, {"conversation": ["U {{user}} ", "B {{bot}} "]}), own)
    messages = [user("a"), bot("b"), user("c")]
    assert template.render(messages, add_generation_prompt=True) == "U a B b c"


def test_the_saved_template_is_read_by_transformers(tmp_path):
    """Through the processor: encode, save, and the same text from the saved folder there."""
    from transformers import AutoTokenizer

    folder = write_checkpoint(tmp_path / "model")
    processor = make_processor(folder, {"chat_template": written(tmp_path, QWEN)})
    messages = [user("Which digit?"), bot("7"), user("And now?")]
    sample = processor.encode([*messages[:2]], max_length=200)
    learned = sample["input_ids"][sample["labels"] != -100]
    assert processor.tokenizer.decode(learned.tolist(), skip_special_tokens=False) == "7<|im_end|>"
    processor.save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    expected = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == expected
    assert expected.startswith(f"{HEAD}\n<|im_start|>user\nWhich digit?<|im_end|>")
    config = (tmp_path / "model/config.json").read_bytes()
    (tmp_path / "saved/config.json").write_bytes(config)
    again = family_of_folder(tmp_path / "saved").load_processor(tmp_path / "saved")
    assert again.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_a_folder_may_hold_paddlenlps_file(tmp_path):
    written(tmp_path, QWEN)
    found = ChatTemplate.from_folder(tmp_path)
    assert found is not None and found.marks_answers
    with pytest.raises(DataError, match="says how to write images"):
        found.render([user("a", "a.png")])


def test_pictures_are_written_as_the_folder_writes_them(own):
    assert visual_words(own) == {
        "image": PICTURE,
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    }
    llava = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>\n{% endif %}"
    llava += "{% endfor %}{% for p in m.content %}{% if 'text' in p %}{{ p.text }}{% endif %}{% endfor %}"
    llava += "{% endfor %}"
    assert visual_words(ChatTemplate(llava, origin="llava"))["image"] == "<image>\n"
    blind = ChatTemplate("{% for m in messages %}{{ m.content | length }}{% endfor %}", origin="blind")
    assert visual_words(blind) == {} == visual_words(None)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_named_templates(own, name):
    template = load_template(name, own)
    messages = [{"role": "system", "content": "Be brief."}, user("a", "x.png"), bot("b"), user("c")]
    text = template.render(messages, add_generation_prompt=True)
    assert "Be brief." in text and PICTURE + "a" in text
    text, ((start, end),) = template.answers(messages[:3])
    assert text[start:end].strip() in ("b<|im_end|>", "b</s>")


def test_a_jinja_file_and_a_json_file_with_jinja(tmp_path):
    source = "{% for m in messages %}{{ bos_token }}{{ m.content }};{% endfor %}"
    plain = load_template(written(tmp_path, source, "mine.jinja"), None, {"bos_token": "<s>"})
    nested = load_template(written(tmp_path, {"chat_template": source}), None, {"bos_token": "<s>"})
    assert plain.render([user("a")]) == nested.render([user("a")]) == "<s>a;"


@pytest.mark.parametrize(
    "content, says",
    [
        ({**QWEN, "querry": "x"}, 'unknown key "querry"'),
        ({"conversation": ["{{user}}"]}, "conversation must be two texts"),
        ({"conversation": ["{{user}}", "fixed"]}, r"conversation\[1\]: it must hold {{bot}}"),
        ({"conversation": ["{% if x %}{{user}}", "{{bot}}"]}, r"conversation\[0\], line 1"),
        ({"conversation": ["{{user}}{% endif %}", "{{bot}}"]}, r"conversation\[0\], line 1"),
        ({"system": 3}, "system must be a text"),
        ({"other": 1}, "is no chat template"),
        ("{", "line 1, column 2"),
    ],
)
def test_a_broken_file_is_named(tmp_path, own, content, says):
    with pytest.raises(BadInputError, match=says) as error:
        load_template(written(tmp_path, content), own)
    assert "chat_template.json" in str(error.value)


def test_no_such_file():
    with pytest.raises(ConfigError, match=r"chat_template no\.jinja is no file and none of the names chatml"):
        load_template("no.jinja", None)


@pytest.mark.parametrize(
    "messages, says",
    [
        ([user("a"), user("b")], "must take turns"),
        ([bot("a")], "must take turns"),
        ([{"role": "system", "content": "s"}, user("a"), bot("b")], "has no {{system}} for it"),
        ([user("a" + MARKS[0]), bot("b")], "which mark answers"),
    ],
)
def test_a_row_that_the_template_cannot_write_is_named(tmp_path, messages, says):
    folder = write_checkpoint(tmp_path / "model")
    processor = make_processor(folder, {"chat_template": written(tmp_path, QWEN)})
    with pytest.raises(DataError, match=says) as error:
        processor.encode(messages, max_length=100, describe="train.json row 7")
    assert str(error.value).startswith("train.json row 7: ")


@pytest.mark.parametrize("source", ["{{ messages[5].content }}", "{{ messages[0].content.nothing() }}"])
def test_a_template_that_fails_on_a_row_names_the_row(tmp_path, source):
    folder = write_checkpoint(tmp_path / "model")
    processor = make_processor(folder, {"chat_template": written(tmp_path, source, "bad.jinja")})
    with pytest.raises(DataError, match=r"train\.json row 7: .*bad\.jinja fails"):
        processor.encode([user("a"), bot("b")], max_length=100, describe="train.json row 7")


def test_a_hostile_piece_is_stopped(tmp_path, own, monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_CPU_S", 0.2)
    hostile = {"conversation": ["{{ ''.__class__.__mro__ }}{{user}}", "{{bot}}"]}
    template = load_template(written(tmp_path, hostile), own)
    with pytest.raises(DataError, match="fails"):
        template.render([user("a"), bot("b")])
    endless = {
        "conversation": ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"]
    }
    endless["conversation"].append("{{bot}}")
    with pytest.raises(DataError, match="processor time"):
        load_template(written(tmp_path, endless), own).render([user("a"), bot("b")])
