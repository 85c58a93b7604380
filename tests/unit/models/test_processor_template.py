"""Chat templates: what they render, where they are found, and that a hostile one is stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from mix_core.errors import BadInputError, DataError
from mix_core.models.common import template_sandbox
from mix_core.models.common.chat_template import ChatTemplate
from tests.builders.checkpoints import CHAT_TEMPLATE, write_checkpoint

MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}],
    },
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, origin="the template")


def render(source: str, **options: bool) -> str:
    return template(source).render(MESSAGES, **options)


def test_the_published_format():
    assert render(CHAT_TEMPLATE, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_every_published_place_is_read(tmp_path, place):
    folder = write_checkpoint(tmp_path, chat_template_in=place)
    found = ChatTemplate.from_folder(folder)
    assert found is not None and found.source == CHAT_TEMPLATE
    assert place in found.origin


def test_a_list_of_named_templates_has_a_default(tmp_path):
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "{{ 1 + 1 }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    found = ChatTemplate.from_folder(tmp_path)
    assert found is not None and found.render(MESSAGES) == "2"


def test_a_folder_without_a_template_has_none(tmp_path):
    assert ChatTemplate.from_folder(write_checkpoint(tmp_path, chat_template_in="")) is None


def test_what_templates_of_other_models_use():
    source = (
        "{{- bos_token }}{% set ns = namespace(n=0) %}\n"
        "{%- for m in messages if m.role == 'user' -%}\n"
        "{% set ns.n = ns.n + 1 %}{{ loop.index }}{{ ':' + m.role | upper }}"
        "{% if m.content is string %}{{ m['content'].strip() | replace('?', '!') }}{% else %}"
        "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') }}"
        "{% endif %}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('<' ~ ns.n ~ '>') }}"
        "{% generation %}{{ {'a': [1, 'é<']} | tojson }}{% endgeneration %}{{ '%03d|%s' % (7, 'x') }}"
        "{{ '{:>4}'.format(5) }}{{ '{{\"2024\": {}}}'.format(6) }}"
        "{{ messages[0]['content'][1].text.split(' ')[:2] | join('-') }}"
        "{{ messages | length }}{{ range(3) | list }}{{ undefined_name is defined }}"
    )
    rendered = ChatTemplate(source, origin="x", variables={"bos_token": "<s>"}).render(MESSAGES)
    assert rendered == (
        '<s>1:USERWhat is it?2:USERSure!<2><2>{"a": [1, "é<"]}007|x   5{"2024": 6}What-is3[0, 1, 2]False'
    )


def test_a_refusal_by_the_template_is_an_error_of_the_data():
    with pytest.raises(DataError, match="the template refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "the template, line 2: Expected an expression"),
        ("{{ 'a' }", "the template, line 1"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be used: maximum recursion"),
        ("x" * (template_sandbox.MAX_TEMPLATE_CHARS + 1), "characters, the limit is"),
    ],
)
def test_a_broken_template_is_refused_when_it_is_read(source, message):
    with pytest.raises(BadInputError, match=message):
        template(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ (messages | first).__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum() }}",
    ],
)
def test_a_template_cannot_reach_python_or_change_the_messages(source):
    before = json.dumps(MESSAGES)
    with pytest.raises(BadInputError, match="the template fails"):
        render(source)
    assert json.dumps(MESSAGES) == before


@pytest.mark.parametrize(
    "source", ["{{ messages.__class__ }}", "{{ messages | map(attribute='__class__') | join }}"]
)
def test_private_attributes_look_undefined(source):
    assert render(source) == ""


def test_a_template_gets_no_object_whose_methods_write_files(tmp_path):
    target = tmp_path / "written"
    messages = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (2, 2))}, {"path": target}]}
    ]
    for call in (f"image.save('{target}', 'PNG')", f"path.write_text('{target}')", "path.touch()"):
        for part in (0, 1):
            with pytest.raises(BadInputError, match="has no attribute"):
                template(f"{{{{ messages[0].content[{part}].{call} }}}}").render(messages)
    assert not target.exists()
    assert isinstance(messages[0]["content"][1]["path"], Path)


def repeated(step: str, *, first: str = "'ab'", before: str = "") -> str:
    """A template that replaces n.x by ``step`` 99 times."""
    loop = f"{before}{{% set n.x = {step} %}}"
    return f"{{% set n = namespace(x={first}) %}}{{% for i in range(99) %}}{loop}{{% endfor %}}"


HOSTILE = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "endless text": "{% for i in range(99999) %}{% for j in range(99999) %}spam{% endfor %}{% endfor %}",
    "captured text": "{% set s %}{% for i in range(99999) %}" + "spam" * 99 + "{% endfor %}{% endset %}",
    "doubling by ~": repeated("n.x ~ n.x"),
    "doubling by +": repeated("n.x + n.x"),
    "doubling in a block": repeated("t", before="{% set t %}{{ n.x }}{{ n.x }}{% endset %}"),
    "doubling lists": repeated("[n.x, n.x]"),
    "a namespace in itself": "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "endless recursion": "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "repeated text": "{{ 'x' * 999999999 }}",
    "repeated list": "{{ (range(99999) | list) * 99999 }}",
    "power": "{{ 9 ** 999999999 }}",
    "towers of powers": repeated("n.x ** 9", first="9"),
    "wide method": "{{ 'a'.ljust(999999999) }}",
    "wide percent": "{{ '%999999999d' % 1 }}",
    "wide percent with precision": "{{ '%.999999999f' % 1 }}",
    "wide percent by name": "{{ '%(a)999999999d' % {'a': 1} }}",
    "wide percent by argument": "{{ '%*d' % (999999999, 1) }}",
    "wide format": "{{ '{:999999999}'.format(1) }}",
    "wide format of a map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "wide format by argument": "{{ '{:{}}'.format(1, 999999999) }}",
    "wide filter": "{{ 'a' | indent(999999999, true) }}",
    "wide JSON": "{{ range(9999) | list | tojson(indent=9999) }}",
    "growing replace": "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
    "growing replace filter": "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
    "growing join": "{{ ('a' * 999999).join('b' * 999999) }}",
    "growing join filter": "{{ range(99999) | join('b' * 999999) }}",
    "large range": "{{ range(999999999) | list }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_would_not_end_or_fill_the_memory_is_stopped(source, monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_CPU_S", 0.3)
    started = time.thread_time()
    with pytest.raises(BadInputError, match="the template fails") as error:
        render(source)
    assert time.thread_time() - started < 3
    assert "\n" not in str(error.value)


def test_a_long_conversation_is_within_the_limits():
    messages = [
        {"role": role, "content": "word " * 2000} for _ in range(50) for role in ("user", "assistant")
    ]
    assert len(template(CHAT_TEMPLATE).render(messages)) > 1_000_000


def test_limits_start_anew_with_each_rendering(monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_CHARS", 40)
    one = template("{{ 'x' * 30 }}")
    assert [len(one.render(MESSAGES)) for _ in range(5)] == [30] * 5
