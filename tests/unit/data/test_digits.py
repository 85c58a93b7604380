"""The bundled digits: true to their source, split without a leak, the same on every machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mix_core.cli.main import build_app
from mix_core.data import digits, glyphs
from mix_core.data.draws import Draws
from mix_core.data.readers import read_dataset
from mix_core.errors import DataError

GOLDENS = Path(__file__).parents[2] / "goldens"
SMALL = {"train": {"digit": 30, "number": 20, "box": 20}, "eval": {"digit": 12, "number": 6, "box": 6}}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(digits, "COUNTS", SMALL)


def test_scans_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is the source to compare with")
    source = datasets.load_digits()
    images, labels = glyphs.load_scans()
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(images, source.images)
    np.testing.assert_array_equal(labels, source.target)


def test_split_holds_out_a_fifth_evenly():
    train, held_out = glyphs.split_scans()
    _, labels = glyphs.load_scans()
    assert sorted([*train, *held_out]) == list(range(1797))
    assert np.bincount(labels[held_out]).tolist() == [36] * 10
    assert len(held_out) == pytest.approx(0.2 * 1797, abs=1)


@pytest.mark.parametrize("task", ["digit", "number", "box"])
def test_no_scan_is_in_a_training_and_an_evaluation_picture(task):
    train, held_out = map(set, glyphs.split_scans())
    for split, own, seed in (
        ("train", train, 0),
        ("eval", held_out, 0),
        ("train", train, 7),
        ("eval", held_out, 7),
    ):
        used = [
            scan for picture in islice(digits.make_pictures(split, task, seed), 400) for scan in picture.scans
        ]
        assert own.issuperset(used)


def test_evaluation_asks_every_held_out_scan_once():
    pictures = list(digits.make_pictures("eval", "digit"))
    assert sorted(scan for picture in pictures for scan in picture.scans) == glyphs.split_scans()[1].tolist()


def test_pictures_and_rows_are_the_same_on_every_machine(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDENS))
    import make_digits_checksums as golden

    expected = json.loads(golden.TARGET.read_text())
    assert golden.checksums() == expected, (
        "after a wanted change: python tests/goldens/make_digits_checksums.py"
    )


def test_draws_are_fixed():
    """Written down here: NumPy may change its generator's methods, not the bits these are made of."""
    draws = Draws("test", 3)
    assert [draws.between(5, 9) for _ in range(8)] == [7, 7, 7, 7, 9, 5, 8, 6]
    assert Draws("test", 3, 1).permutation(6).tolist() == [2, 3, 1, 0, 5, 4]
    assert Draws("test", 3).fractions(1)[0] == 0.4288693316783694


@pytest.mark.parametrize("size", [8, 16, 17, 20, 33])
def test_ink_is_bilinear(size):
    scan = glyphs.load_scans()[0][11]
    ink_HW, full = glyphs.draw_ink(scan, size)
    padded = np.pad(scan.astype(float), 1)
    at = (np.arange(size) + 0.5) * 8 / size - 0.5 + 1
    low = np.floor(at).astype(int)
    rest = at - low
    rows = padded[low] * (1 - rest)[:, None] + padded[low + 1] * rest[:, None]
    expected = rows[:, low] * (1 - rest) + rows[:, low + 1] * rest
    np.testing.assert_allclose(ink_HW / full, expected / 16, atol=1e-12)


def test_numbers_are_written_as_read():
    _, labels = glyphs.load_scans()
    lengths = set()
    for picture in islice(digits.make_pictures("train", "number"), 300):
        assert picture.answer == "".join(str(labels[scan]) for scan in picture.scans)
        assert not picture.answer.startswith("0")
        lengths.add(len(picture.answer))
    assert lengths == {2, 3, 4}


def test_boxes_enclose_the_only_seven():
    _, labels = glyphs.load_scans()
    for picture in islice(digits.make_pictures("train", "box"), 300):
        canvas = picture.pixels_HW.astype(int)
        assert [labels[scan] == 7 for scan in picture.scans] == [True, False, False]
        corners = [
            int(n)
            for n in re.fullmatch(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>", picture.answer).groups()
        ]
        assert all(0 <= n < 1000 for n in corners)
        x1, y1, x2, y2 = (round(n * digits.BOX_CANVAS_PX / 1000 + 0.499) for n in corners)
        inside = canvas[y1:y2, x1:x2]
        ink = canvas.max() - inside
        for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
            assert edge.max() >= (canvas.max() - digits.INK_TONES[1]) / 4 - 1


def test_canvases_are_whole_cells_and_not_rescaled():
    from mix_core.models.registry import family_of_folder

    folder = Path(digits.__file__).parents[1] / "recipes" / "digits" / "model"
    images = family_of_folder(folder).load_processor(folder).images
    for task in digits.COUNTS["train"]:
        for picture in islice(digits.make_pictures("train", task), 60):
            assert images.target_size(*picture.pixels_HW.shape) == picture.pixels_HW.shape


def test_written_rows_read_back_with_the_same_pixels(tmp_path, small):
    digits.write_digits(tmp_path / "new" / "digits")
    for split, tasks in SMALL.items():
        rows = read_dataset(str(tmp_path / "new" / "digits" / f"{split}.json"))
        pictures = [picture for task in tasks for picture in digits.make_pictures(split, task)]
        assert [row["task"] for row in rows] == [task for task, count in tasks.items() for _ in range(count)]
        for row, picture in zip(rows, pictures, strict=True):
            image, question = row["messages"][0]["content"]
            np.testing.assert_array_equal(np.asarray(Image.open(image["image"])), picture.pixels_HW)
            assert question["text"] == digits.PROMPTS[row["task"]]
            assert row["messages"][1] == {"role": "assistant", "content": picture.answer}
    assert (
        "CC BY" in glyphs.__doc__ and "licenses/by/4.0" in (tmp_path / "new/digits/ATTRIBUTION").read_text()
    )
    assert "/" not in json.loads((tmp_path / "new/digits/eval.json").read_text())[0]["images"][0][:1]


def test_a_seed_changes_pictures_not_the_split():
    first, other = (next(digits.make_pictures("eval", "box", seed)) for seed in (0, 1))
    assert first.answer != other.answer or first.scans != other.scans
    again = next(digits.make_pictures("eval", "box", 0))
    np.testing.assert_array_equal(first.pixels_HW, again.pixels_HW)


def test_ensure_makes_once_and_again_when_stale(tmp_path, small):
    out = digits.ensure_digits(tmp_path / "digits")
    made = (out / "train.json").stat().st_mtime_ns
    digits.ensure_digits(out)
    assert (out / "train.json").stat().st_mtime_ns == made
    (out / "made_by").write_text("an older version")
    (out / "images" / "old.png").touch()
    digits.ensure_digits(out)
    assert (out / "train.json").stat().st_mtime_ns != made and not (out / "images" / "old.png").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "digits.lock"}


def test_ensure_leaves_nothing_half_done(tmp_path, small, monkeypatch):
    def broken(out, seed):
        (out / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "write_digits", broken)
    with pytest.raises(KeyboardInterrupt):
        digits.ensure_digits(tmp_path / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.lock"]


def test_two_runs_may_make_the_data_at_once(tmp_path):
    out = tmp_path / "digits"
    program = f"""if True:
        import sys
        from pathlib import Path
        from mix_core.data import digits
        digits.COUNTS = {SMALL!r}
        made = digits.write_digits
        digits.write_digits = lambda part, seed: print("made") or made(part, seed=seed)
        digits.ensure_digits(Path(sys.argv[1]))
    """
    command = [sys.executable, "-c", program, str(out)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(printed) == ["", "made\n"]
    assert len(read_dataset(str(out / "train.json"))) == 70
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "digits.lock"}


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"cannot write the digits to .*file/out: Not a directory; choose another"
    ):
        digits.write_digits(tmp_path / "file" / "out")


def test_command_writes_the_data(tmp_path, small):
    result = CliRunner().invoke(
        build_app(), ["data", "digits", "--out", str(tmp_path / "out"), "--seed", "3"]
    )
    assert result.exit_code == 0, result.output
    assert "train.json: 30 digit, 20 number, 20 box" in result.output.replace("\n", "")
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 94


@pytest.mark.slow
def test_all_the_data_is_written_in_seconds(tmp_path):
    digits.write_digits(tmp_path)
    for split, tasks in digits.COUNTS.items():
        assert len(json.loads((tmp_path / f"{split}.json").read_text())) == sum(tasks.values())
