"""Configuration files that are no JSON: the message names line, column and character."""

from __future__ import annotations

import json

import pytest

from mix_core.config_text import parse_json, parse_yaml, read_config_file
from mix_core.errors import ConfigError

AS_PRINTED = """\
# config.json
{
    \u201cmodel_name_or_path\u201d  #the model, for example "qwen-vl/qwen-vl-chat-7b"

    "dataset": {
        "train": [{"name": "chatml_dataset", "data_files": "a.json"\uff0c"chat_template": "t.json"}],
    },
}
"""
"""A sample with the traits of the fine-tuning tool's guide: comments, curly quotes, a full-width comma."""


def message(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_json(text, "config.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_guides_sample_is_refused_at_each_character_that_is_not_json():
    """Mending what each message names leads, step by step, to a file that is JSON."""
    text = AS_PRINTED
    assert message(text).startswith('config.json line 1 column 1: got "#"; JSON has no comments')
    text = text.replace("# config.json", "", 1)
    said = message(text)
    assert said.startswith('config.json line 3 column 5: got "\u201c" (U+201C, LEFT DOUBLE QUOTATION MARK)')
    assert said.endswith('type "')
    text = text.replace("\u201cmodel_name_or_path\u201d", '"model_name_or_path": "m",', 1)
    assert 'line 3 column 33: got "#"' in message(text)
    text = text.replace(text[text.index("#the") : text.index("\n\n    ")], "", 1)
    said = message(text)
    column = text.splitlines()[4 + 1].index("\uff0c") + 1
    assert said == (f'config.json line 6 column {column}: got "\uff0c" (U+FF0C, FULLWIDTH COMMA); type ,')
    text = text.replace("\uff0c", ", ")
    assert 'line 7 column 5: got "}"; remove the comma before it' in message(text)
    text = text.replace("],\n", "]\n").replace("},\n}", "}\n}")
    assert parse_json(text, "config.json")["dataset"]["train"][0]["chat_template"] == "t.json"


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("{'a': 1}", "line 1 column 2", 'type "'),
        ('{"a"\uff1a 1}', "line 1 column 5", "type :"),
        ('{"a": 1\n "b": 2}', "line 2 column 2", "a comma is missing before it"),
        ('{"a" 1}', "line 1 column 6", "a colon is missing"),
        ('{"a": True}', "line 1 column 7", "JSON writes true, false and null"),
        ('{"a": 1} x', "line 1 column 10", "remove what follows"),
        ('{"a": "x\ny"}', "line 1 column 9", "close the quote"),
        ("{\n    ...\n}", "line 2 column 5", "keys left out"),
        ('{"a":\u00a01}', "line 1 column 6", "ordinary space"),
        ('{"a": [1, 2', "line 1 column 12", "the file ends here"),
        ('{"a": 1,\n  // no\n  "b": 2}', "line 2 column 3", "no comments"),
    ],
)
def test_position_and_advice(text, where, says):
    said = message(text)
    assert said.startswith(f"config.json {where}: "), said
    assert says in said


def test_a_key_given_twice_is_refused_in_both_formats():
    assert 'the key "a" is given twice' in message('{"a": 1, "a": 2}')
    with pytest.raises(ConfigError, match=r'c.yaml line 2 column 1: the key "a" is given twice'):
        parse_yaml("a: 1\na: 2\n", "c.yaml")


def test_yaml_numbers_comments_and_positions():
    value = parse_yaml("learning_rate: 1e-5  # peak\nbf16: true\nlist: [1.5E+2, x]\n", "c.yaml")
    assert value == {"learning_rate": 1e-5, "bf16": True, "list": [150.0, "x"]}
    with pytest.raises(ConfigError, match=r'c.yaml line 2 column 8: got "，" \(U\+FF0C'):
        parse_yaml('a: 1\nb: ["x"，"y"]\n', "c.yaml")


def test_yaml_builds_no_objects():
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.getcwd []\n", "c.yaml")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.toml", b"x = 1", "ends in .json, .yaml or .yml"),
        ("a.json", b"[1]", "got a list, expected a mapping"),
        ("a.json", b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ("a.yaml", b"", "got null, expected a mapping"),
    ],
)
def test_files_that_hold_no_configuration(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_config_file(tmp_path / name)


def test_missing_file_and_byte_order_mark(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*gone.json"):
        read_config_file(tmp_path / "gone.json")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"seed": 1}).encode())
    assert read_config_file(tmp_path / "bom.json") == {"seed": 1}
