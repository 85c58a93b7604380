"""`mix_core.load` and what an engine answers, on a real (small, random) model folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import mix_core
from mix_core.errors import BadInputError, DataError, DeviceError


@pytest.fixture
def mixed(pictures):
    """Conversations of different lengths: text, one picture, two pictures, several turns."""
    conversations = [
        "hi",
        "what is in this picture, and in which order do you see it?",
        "<image> and then <image>",
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a?"}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "and now?"},
        ],
    ]
    return conversations, [None, pictures[:1], pictures[1:3], pictures[3:]]


def test_a_batch_answers_as_single_runs_do(engine, mixed):
    conversations, images = mixed
    together = engine.generate(conversations, images, max_new_tokens=24)
    alone = [engine.generate(c, i, max_new_tokens=24) for c, i in zip(conversations, images)]
    assert together == alone
    assert len(set(together)) == len(together), "the model does look at its prompt"
    assert any(len(set(text)) > 3 for text in together), "and does not say one thing only"


def test_draws_do_not_depend_on_the_batch(engine, mixed):
    conversations, images = mixed
    drawn = {"max_new_tokens": 16, "temperature": 1.0, "top_k": 50, "top_p": 0.95, "seed": 5}
    together = engine.generate(conversations, images, **drawn)
    backwards = engine.generate(conversations[::-1], images[::-1], **drawn)
    assert together == backwards[::-1]
    assert together == [engine.generate(c, i, **drawn) for c, i in zip(conversations, images)]
    assert together != engine.generate(conversations, images, **(drawn | {"seed": 6}))


def test_the_same_prompt_several_times_gives_several_answers(engine):
    drawn = {"max_new_tokens": 16, "temperature": 1.5, "seed": 1}
    texts = engine.generate(["tell me"] * 4, **drawn)
    assert len(set(texts)) == 4
    assert texts[0] == engine.generate("tell me", **drawn)


def test_stream_gives_the_same_text_in_pieces(engine, pictures):
    asked = {"messages": "what?", "images": pictures[:1], "max_new_tokens": 24}
    whole = engine.generate(**asked)
    pieces = list(engine.stream(**asked))
    assert "".join(pieces) == whole and len(pieces) > 3
    stop = whole[len(whole) // 2 :][:2]
    cut = engine.generate(**asked, stop=stop)
    assert cut == whole[: whole.index(stop)]
    assert "".join(engine.stream(**asked, stop=stop)) == cut


def test_answer_counts_tokens_and_says_how_it_ended(engine, pictures):
    (answer,) = engine.answer(["what?"], [pictures[:1]], max_new_tokens=7)
    grid = engine.processor(images=pictures[:1])["image_grid_thw"]
    (text_only,) = engine.answer(["what?"], max_new_tokens=7)
    cells = int(grid.prod()) // 4
    assert answer.prompt_tokens == text_only.prompt_tokens + cells + 2  # and the marks around them
    assert (answer.new_tokens, answer.finish) == (7, "length")
    ids = engine.processor.tokenizer.encode(answer.text)
    assert ids, "the answer is text"
    engine_stop, engine.stop_token_ids = engine.stop_token_ids, tuple(range(len(engine.processor.tokenizer)))
    try:
        (ended,) = engine.answer(["what?"], [pictures[:1]], max_new_tokens=7)
    finally:
        engine.stop_token_ids = engine_stop
    assert (ended.new_tokens, ended.finish) == (1, "stop")


def test_stop_tokens_are_those_of_generation_config(engine, model_folder):
    listed = json.loads((model_folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(listed) <= set(engine.stop_token_ids) and len(listed) == 2


def test_forward_takes_and_gives_numpy(engine, pictures):
    texts = [
        engine.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": p}, {"type": "text", "text": words}]}]
        )
        for p, words in zip(pictures, ["a", "a longer text"])
    ]
    inputs = engine.processor(text=texts, images=pictures[:2], padding_side="left")
    logits = engine.forward(**inputs)
    B, S = inputs["input_ids"].shape
    assert type(logits) is np.ndarray and logits.dtype == np.float32 and logits.shape[:2] == (B, S)
    for row in range(2):  # padding does not change what a row says
        alone = engine.processor(text=texts[row], images=[pictures[row]])
        kept = inputs["attention_mask"][row].astype(bool)
        assert not kept.all() or row == 1
        np.testing.assert_allclose(logits[row][kept], engine.forward(**alone)[0], rtol=1e-4, atol=1e-4)


def test_an_engine_leaves_the_model_as_it_was(engine):
    engine.model.train()
    try:
        engine.generate("hi", max_new_tokens=2)
        assert engine.model.training
        stream = engine.stream("hi", max_new_tokens=5)
        next(stream)
        stream.close()
        assert engine.model.training
    finally:
        engine.model.eval()


def test_nothing_asked_nothing_answered(engine):
    assert engine.generate([]) == []


def test_bad_input(engine, pictures, tmp_path):
    with pytest.raises(DataError, match=r"1 image placeholder\(s\) and 2 image\(s\)"):
        engine.generate("<image>", pictures[:2])
    with pytest.raises(DataError, match="no such file"):
        engine.generate("what?", [str(tmp_path / "none.png")])
    with pytest.raises(BadInputError, match="images has 1 entries for 2 conversations"):
        engine.generate(["a", "b"], [pictures[:1]])
    with pytest.raises(BadInputError, match="top_p is 2"):
        engine.generate("a", top_p=2)


def test_folders_and_dtypes_that_cannot_be_loaded(model_folder, tmp_path):
    with pytest.raises(BadInputError, match=r"config\.json"):
        mix_core.load(tmp_path, device="cpu")
    with pytest.raises(BadInputError, match="dtype is 'int4', expected one of float32"):
        mix_core.load(model_folder, device="cpu", dtype="int4")
    with pytest.raises(BadInputError, match="dtype is bfloat16, but device cpu computes in float32"):
        mix_core.load(model_folder, device="cpu", dtype="bfloat16")
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        mix_core.load(broken, device="cpu")


def test_another_device_in_the_same_process_is_refused(engine, model_folder):
    with pytest.raises(DeviceError):
        mix_core.load(model_folder, device="nosuchdevice")


def test_importing_the_engine_imports_no_paddle():
    code = (
        "import sys, mix_core.inference.engine, mix_core.cli.infer, mix_core.cli.chat; "
        "sys.exit('paddle' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_video_is_seen(engine):
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), np.uint8)
    asked = {"max_new_tokens": 12}
    text = engine.generate("what?", videos=[{"video": frames, "fps": 2.0}], **asked)
    assert text == engine.generate("<video>what?", videos=[{"video": frames, "fps": 2.0}], **asked)
    assert text != engine.generate("what?", videos=[{"video": frames[::-1].copy(), "fps": 2.0}], **asked)
    both = engine.generate(["what?", "hi"], videos=[[{"video": frames, "fps": 2.0}], None], **asked)
    assert both == [text, engine.generate("hi", **asked)]
