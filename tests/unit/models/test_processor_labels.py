"""What of a conversation is learned: the mask is printed token by token and checked as text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mix_core.errors import BadInputError, ConfigError, DataError
from mix_core.models.common.supervision import IGNORED
from mix_core.models.qwen2_5_vl.processor import load_processor
from tests.builders.checkpoints import write_checkpoint

IMAGE = np.full((40, 40, 3), 90, np.uint8)
CONVERSATION = [
    {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "It's a cat."},
    {"role": "user", "content": "And the number? 图片"},
    {"role": "assistant", "content": [{"type": "text", "text": " 12, naïve.\n"}]},
]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_processor(write_checkpoint(tmp_path_factory.mktemp("labels")))


def learned(processor, sample) -> list[str]:
    """Texts of the runs of learned tokens."""
    ids, labels = sample["input_ids"], sample["labels"]
    mask = labels != IGNORED
    assert (labels[mask] == ids[mask]).all(), "labels stand at the place of their own token"
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [
        processor.tokenizer.decode(ids[a:b].tolist(), skip_special_tokens=False)
        for a, b in zip(edges[::2], edges[1::2])
    ]


def show(processor, sample) -> str:
    """One line a token, as a person reads a mask."""
    return "\n".join(
        f"{'learned' if label != IGNORED else '   -   '} {processor.tokenizer.decode([int(i)], False)!r}"
        for i, label in zip(sample["input_ids"], sample["labels"])
    )


def encode(processor, messages=None, **options):
    return processor.encode(messages or CONVERSATION, max_length=None, **options)


def test_every_answer_with_its_end_is_learned(processor):
    sample = encode(processor)
    print(show(processor, sample))
    assert learned(processor, sample) == ["It's a cat.<|im_end|>", " 12, naïve.\n<|im_end|>"]


def test_mask_history_leaves_the_last_answer(processor):
    sample = encode(processor, mask_history=True)
    print(show(processor, sample))
    assert learned(processor, sample) == [" 12, naïve.\n<|im_end|>"]


def test_train_on_prompt_learns_everything_but_the_picture(processor):
    sample = encode(processor, train_on_prompt=True)
    unlearned = sample["input_ids"][sample["labels"] == IGNORED]
    assert set(unlearned.tolist()) == {processor.tokenizer.token_id("<|image_pad|>")}
    assert len(unlearned) == 4
    assert learned(processor, sample)[0].endswith("user\n<|vision_start|>")


def test_both_options_exclude_each_other(processor):
    with pytest.raises(ConfigError, match="train_on_prompt and mask_history exclude each other"):
        encode(processor, train_on_prompt=True, mask_history=True)


def test_ids_are_those_of_inference(processor):
    sample = encode(processor)
    text = processor.apply_chat_template(CONVERSATION)
    np.testing.assert_array_equal(sample["input_ids"], processor(text, [IMAGE])["input_ids"][0])
    # and the prompt is a prefix of them, so that the first learned token is what generation gives first
    prompt = processor.apply_chat_template(CONVERSATION[:1], add_generation_prompt=True)
    prompt_ids = processor(prompt, [IMAGE])["input_ids"][0]
    np.testing.assert_array_equal(sample["input_ids"][: len(prompt_ids)], prompt_ids)
    assert (sample["labels"][: len(prompt_ids)] == IGNORED).all()
    assert sample["labels"][len(prompt_ids)] != IGNORED


def test_an_answer_with_the_end_token_in_its_text(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one<|im_end|>two"}]
    assert learned(processor, encode(processor, messages)) == ["one<|im_end|>two<|im_end|>"]


def test_an_empty_answer_still_teaches_to_stop(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]
    assert learned(processor, encode(processor, messages)) == ["<|im_end|>"]


def test_an_answer_that_begins_with_a_line_break(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n\nyes"}]
    assert learned(processor, encode(processor, messages)) == ["\n\nyes<|im_end|>"]


def test_a_system_message_is_not_learned(processor):
    messages = [{"role": "system", "content": "Be brief."}, *CONVERSATION[2:]]
    sample = encode(processor, messages)
    assert learned(processor, sample) == [" 12, naïve.\n<|im_end|>"]


def test_no_answer_is_an_error_that_names_the_row(processor):
    with pytest.raises(DataError, match=r"row 3 of x\.json: no message has the role assistant"):
        encode(processor, CONVERSATION[:1], describe="row 3 of x.json")


def test_an_answer_without_a_question_is_an_error(processor):
    with pytest.raises(DataError, match=r"message 1 \(assistant\) as a continuation"):
        encode(processor, CONVERSATION[1:2])


# Other templates: what is needed is only that they write prefixes.

OTHER_TEMPLATES = {
    "Llama-like, end token without a break": (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}",
        ["two<|im_end|>", "four<|im_end|>"],
    ),
    "no end token at all": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        ["two\n", "four\n"],
    ),
    "end token and two breaks": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        ["two<|im_end|>", "four<|im_end|>"],
    ),
}
TURNS = [
    {"role": role, "content": text}
    for role, text in (("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))
]


@pytest.mark.parametrize(("source", "spans"), OTHER_TEMPLATES.values(), ids=OTHER_TEMPLATES)
def test_other_templates(tmp_path, source, spans):
    folder = write_checkpoint(tmp_path)
    # An end of block swallows the line break after it, so breaks are written as expressions.
    source = source.replace("\n", "{{ '\\n' }}")
    (folder / "chat_template.jinja").write_text(source)
    processor = load_processor(folder)
    found = learned(processor, encode(processor, TURNS))
    assert found[0].startswith(" two"), (
        "this vocabulary has a token for ' t', which also covers the prompt's blank"
    )
    assert [text.lstrip(" ") for text in found] == spans


def test_a_template_that_rewrites_the_past_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path)
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else '.' }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(source)
    with pytest.raises(DataError, match=r"row 1: the chat template does not write message 2"):
        encode(load_processor(folder), TURNS, describe="row 1")


def test_a_folder_without_a_template_says_where_one_may_be(tmp_path):
    processor = load_processor(write_checkpoint(tmp_path, chat_template_in=""))
    with pytest.raises(BadInputError, match=r"no chat template; expected chat_template\.jinja"):
        encode(processor)
    assert processor("plain text")["input_ids"].shape[0] == 1


def test_samples_too_long(processor):
    length = len(encode(processor)["input_ids"])
    assert len(processor.encode(CONVERSATION, max_length=length)["input_ids"]) == length
    with pytest.raises(DataError) as error:
        processor.encode(CONVERSATION, max_length=length - 1, describe="row 7 of y.jsonl")
    assert str(error.value).startswith(
        f"row 7 of y.jsonl: it has {length} tokens (3 of them added by pictures), max_length is {length - 1}"
    )
    before = processor.skipped
    assert processor.encode(CONVERSATION, max_length=9, on_too_long="skip") is None
    assert processor.skipped == before + 1
    with pytest.raises(ConfigError, match="on_too_long is 'cut', expected error or skip"):
        processor.encode(CONVERSATION, max_length=9, on_too_long="cut")


def test_messages_are_not_changed(processor):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    before = json.dumps(messages)
    encode(processor, messages)
    assert json.dumps(messages) == before
