"""A sample that is cut at its end keeps its pictures whole, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.data.truncation import IGNORED, truncated
from mix_core.data.worker import encode_row
from mix_core.errors import ConfigError, DataError
from mix_core.models.registry import family_of_folder
from tests.builders import qwen2_vl
from tests.builders.checkpoints import write_checkpoint
from tests.builders.internvl2_checkpoints import write_folder
from tests.builders.llava import write_llava
from tests.builders.qwen_vl import write_qwen_vl

FOLDERS = {
    "qwen2_5_vl": write_checkpoint,
    "qwen2_vl": qwen2_vl.write_checkpoint,
    "internvl2": write_folder,
    "llava-1.5": write_llava,
    "llava-1.6": lambda folder: write_llava(folder, anyres=True),
    "qwen_vl": write_qwen_vl,
}
ANSWER = "it is a cat, and there is a mat, and it sits on it"


@pytest.fixture(scope="module", params=FOLDERS)
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "qwen_vl":
        pytest.importorskip("tiktoken", reason="the vocabulary is read with tiktoken")
    folder = FOLDERS[request.param](tmp_path_factory.mktemp(request.param))
    return family_of_folder(Path(folder)).load_processor(Path(folder))


def asked(text: str) -> dict[str, Any]:
    image = {"type": "image", "image": np.full((40, 60, 3), 90, np.uint8)}
    return {"role": "user", "content": [image, {"type": "text", "text": text}]}


def answered(text: str = ANSWER) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def sample_of(processor: Any, *messages: dict[str, Any]) -> dict[str, np.ndarray]:
    return processor.encode(list(messages), max_length=None)


def places(processor: Any, sample: dict[str, np.ndarray]) -> np.ndarray:
    return np.flatnonzero(np.isin(sample["input_ids"], processor.visual_token_ids))


def test_at_any_length_a_picture_is_whole_or_the_row_is_refused(processor: Any) -> None:
    sample = sample_of(processor, asked("what?"), answered())
    seen, length = places(processor, sample), len(sample["input_ids"])
    assert len(seen) > 1 and length > seen[-1] + 5
    kept = []
    for limit in range(1, length):
        try:
            cut = truncated(sample, limit, processor, "row 1")
        except DataError as error:
            assert (seen[-1] >= limit) == ("its pictures reach to token" in str(error)), limit
            continue
        kept.append(limit)
        np.testing.assert_array_equal(places(processor, cut), seen)
        assert len(cut["input_ids"]) == len(cut["labels"]) == limit
        assert (cut["labels"] != IGNORED).any() and limit > seen[-1]
        batch = processor.collate([cut])
        for key, values in processor.collate([sample]).items():
            if key not in ("input_ids", "labels", "attention_mask", "position_ids"):
                np.testing.assert_array_equal(batch[key], values, err_msg=key)
    assert kept == list(range(kept[0], length)) and len(kept) > 5


def test_a_later_picture_is_not_cut_either(processor: Any) -> None:
    row = (asked("what?"), answered("a cat"), asked("and this?"), answered())
    sample = sample_of(processor, *row)
    second = places(processor, sample)[-1]
    for limit in (second, second - 1):
        with pytest.raises(DataError, match=f"its pictures reach to token {second + 1}, so that it cannot"):
            truncated(sample, int(limit), processor, "row 1")
    options = {"on_too_long": "truncate", "max_length": int(second) + 4}
    if (sample["labels"][: second + 4] == IGNORED).all():
        pytest.fail("the first answer is learned, so there is something left")
    cut = encode_row(processor, {"messages": list(row), "source": "row 1"}, options)
    assert cut is not None and len(cut["input_ids"]) == second + 4


def test_a_key_that_the_family_lacks_may_ask_for_nothing(processor: Any) -> None:
    assert processor.with_options(conv_style="internlm2-chat", drop_path_rate=0.0).skipped == 0
    lacks = {"video_max_pixels": 1000}
    if "drop_path_rate" not in processor.options:
        lacks = {"max_dynamic_patch": 6, "drop_path_rate": 0.1}
    if "video_max_pixels" in processor.options:
        lacks["use_thumbnail"] = True
    with pytest.raises(ConfigError, match=f"the model has no {', '.join(sorted(lacks))}: "):
        processor.with_options(**lacks)
