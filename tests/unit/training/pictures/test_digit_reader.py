"""The reader of digits, the pictures it learns from, and the model folders of the recipes that draw them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from mix_core.data import glyphs
from mix_core.data.captions import read_captions
from mix_core.data.digit_captions import COUNT, NAMES, digit_pictures, ensure_captioned_digits
from mix_core.recipes import FOLDER
from mix_core.training.pictures.digit_reader import HELD_OUT, DigitReader


def test_it_reads_scans_that_it_has_not_seen() -> None:
    reader = DigitReader()
    assert reader.held_out() > 0.97
    pictures, digits = digit_pictures("eval", HELD_OUT)
    upside_down = reader.read(pictures[:, ::-1])
    assert (upside_down == digits).mean() < 0.7, "it looks at the picture"
    assert len(reader.read(np.full((2, 32, 32), 255, np.uint8))) == 2


def test_pictures_of_the_two_splits_share_no_scan() -> None:
    train, held_out = glyphs.split_scans()
    assert not set(train.tolist()) & set(held_out.tolist())
    first, digits = digit_pictures("train", 12)
    again, _ = digit_pictures("train", 12)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (12, 32, 32) and set(digits.tolist()) <= set(range(10))


def test_a_folder_with_captions_is_made_once(tmp_path: Path) -> None:
    folder = ensure_captioned_digits(tmp_path / "digits")
    rows = read_captions(folder)
    assert len(rows) == COUNT and {row.captions[0].split()[-1] for row in rows} == set(NAMES)
    before = (folder / "metadata.jsonl").stat().st_mtime_ns
    ensure_captioned_digits(folder)
    assert (folder / "metadata.jsonl").stat().st_mtime_ns == before


def test_model_folders_are_what_the_script_makes(tmp_path: Path) -> None:
    where = FOLDER / "digits-t2i/make_model_folder.py"
    spec = importlib.util.spec_from_file_location("make_picture_model_folders", where)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    for recipe in ("digits-t2i", "wiring-sd3"):
        made = {
            path.relative_to(tmp_path): path.read_text() for path in tmp_path.glob(f"{recipe}/model/**/*.*")
        }
        kept = {path.relative_to(FOLDER): path.read_text() for path in FOLDER.glob(f"{recipe}/model/**/*.*")}
        assert made == kept, f"{recipe}: run python mix_core/recipes/digits-t2i/make_model_folder.py"
    words = [script.CAPTION.format(name) for name in NAMES]
    from mix_core.models.clip_text.tokenizer import load_clip_tokenizer

    tokenizer = load_clip_tokenizer(FOLDER / "digits-t2i/model/tokenizer")
    assert {len(tokenizer.ids(word, 8)) for word in words} == {5}, "marks and three words"
