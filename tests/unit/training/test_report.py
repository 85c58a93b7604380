"""report.html: says what the run says, loads nothing, and survives runs that are empty, torn or hostile."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mix_core.errors import BadInputError
from mix_core.training.report import page, write_report
from mix_core.training.report_chart import Line, Scale, chart, linear_ticks, log_ticks, reduced, smoothed
from mix_core.training.report_view import count, duration, number, read_run

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """A parsed report: elements with attributes and the text inside them; refuses tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"left open: {[e['tag'] for e in self.open]}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **{f"@{name}": value or "" for name, value in attrs}}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **{f"@{name}": value or "" for name, value in attrs}})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes <{self.open[-1]['tag']}>"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, css_class: str | None = None) -> list[dict[str, Any]]:
        found = (e for e in self.elements if e["tag"] == tag)
        return [e for e in found if css_class is None or css_class in e.get("@class", "").split()]

    @property
    def text(self) -> str:
        return " ".join(self.all("main")[0]["text"].split())


def write_run(folder: Path, steps: int = 400) -> Path:
    """A run folder with everything in it."""
    (folder / "gallery").mkdir(parents=True)
    for number_ in range(3):
        Image.new("L", (16, 24), 40 * number_).save(folder / "gallery" / f"{number_:03d}.png")
    record = {
        "status": "finished",
        "started": "2026-01-02T03:04:05+0800",
        "ended": "2026-01-02T03:08:35+0800",
        "steps": steps,
        "last_step": steps,
        "command": ["python", "-m", "mix_core.train", "--recipe", "digits"],
        "configuration": {"learning_rate": 0.00321, "seed": 42, "bf16_note": "<b>&"},
        "versions": {"mix-core": "9.8.7", "numpy": "2.0.1"},
        "model": {"family": "qwen2_5_vl", "parameters": 1373792},
        "throughput": {
            "tokens_per_s": 15300.4,
            "samples_per_s": 96.5,
            "tflops": 0.4,
            "mfu": 0.41,
            "peak_flops": 1e12,
            "padding": 0.03,
            "seconds": {"compute": 200.0, "data": 40.0, "checkpoint": 10.0, "communication": 0.0},
            "shares": {"compute": 0.8, "data": 0.16, "checkpoint": 0.04, "communication": 0.0},
        },
        "data": {"train": {"rows": 36000, "files": {str(folder / "train.json"): "0123456789abcdef0123"}}},
        "device": {
            "name": "cpu",
            "place": "cpu",
            "origin": "auto",
            "vendor": "Some Vendor",
            "kernels": [{"op": "rms_norm", "dtype": "float32", "kernel": "csrc rms_norm", "reason": "fused"}],
            "settings": [
                {
                    "name": "OMP_NUM_THREADS",
                    "value": "2",
                    "reason": "2 physical cores < 4",
                    "source": "plugin cpu",
                    "kind": "environment",
                    "stage": "import",
                }
            ],
        },
    }
    rows = [
        {
            "step": step,
            "loss": 5.0 * 0.985**step + 0.01,
            "learning_rate": 1e-3,
            "tokens_per_s": 15000 + step,
            "memory_bytes": 700 << 20,
            "grad_norm": 1.0,
            **({"eval_digit_exact": step / steps} if step % 100 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]
    rows[10]["loss"] = None
    gallery = [
        {"task": "digit", "question": "这是哪个数字？", "answer": "7", "truth": "7", "score": 1.0},
        {
            "task": "number",
            "question": "Read <i>it</i>.",
            "answer": "",
            "truth": "12",
            "score": 0.0,
            "pick": "mistake",
        },
        {
            "task": "box",
            "question": "Where?",
            "answer": "<box>(1,2),(300,400)</box>",
            "truth": "<box>(1,2),(350,400)</box>",
            "boxes_answer": [[1, 2, 300, 400]],
            "boxes_truth": [[1, 2, 350, 400]],
            "score": 0.857,
        },
    ]
    for i, entry in enumerate(gallery):
        entry["image"] = f"gallery/{i:03d}.png"
    (folder / "ATTRIBUTION").write_text("Scans by someone, https://example.org/licence")
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text(
        json.dumps({"digit_exact": 0.978, "box_iou": 0.6423, "loss": 0.0931})
    )
    (folder / "gallery.json").write_text(json.dumps(gallery))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "digits-run")


def test_says_what_the_files_say(run):
    page = Page(write_report(run))
    assert page.all("title")[0]["text"] == "digits-run · mix-core"
    for words in (
        "qwen2_5_vl · 1.37 million parameters",
        "cpu · Some Vendor",
        "36,000 rows",
        "4 min 30 s · 400 steps",
        "2026-01-02 03:04 +0800",
        "OMP_NUM_THREADS 2 2 physical cores < 4 plugin cpu import".replace(" ", ""),
        "rms_norm",
        "python -m mix_core.train --recipe digits",
        "0.00321",
        "9.8.7",
        "Scans by someone, example.org/licence",
    ):
        assert words in page.text or words in page.text.replace(" ", ""), words
    rows = [row["text"] for row in page.all("tr")]
    assert any("digit_exact" in row and "97.8 %" in row for row in rows)
    assert any("box_iou" in row and "0.642" in row for row in rows)
    titles = [
        re.sub(r"(?<=[a-z])(?=per|tokens|MiB|before|share).*", "", f["text"]) for f in page.all("figcaption")
    ]
    assert titles == ["Loss", "Learning rate", "Speed", "Memory", "Gradient norm", "Held-out scores"]


def test_curves_carry_the_measured_values(run):
    page = Page(write_report(run))
    loss, _, speed, memory, _, scores = [
        json.loads(svg["@data-hover"]) for svg in page.all("svg") if "@data-hover" in svg
    ]
    assert [line["name"] for line in loss] == ["measured", "smoothed"]
    assert loss[0]["step"][0] == 1 and loss[0]["step"][-1] == 400
    assert loss[0]["text"][0] == "4.935" and 11 not in loss[0]["step"], (
        "a loss that is not finite is left out"
    )
    assert loss[0]["x"][0] == 0 and loss[0]["x"][-1] == 100
    assert loss[0]["y"] == sorted(loss[0]["y"]), "a falling loss goes down the page"
    assert speed[0]["text"][-1] == "15.4k" and set(memory[0]["text"]) == {"700"}
    assert scores[0]["name"] == "digit_exact" and scores[0]["text"] == [
        "25.0 %",
        "50.0 %",
        "75.0 %",
        "100.0 %",
    ]


def test_gallery_shows_pictures_answers_marks_and_boxes(run):
    page = Page(write_report(run))
    cards = page.all("article", "card")
    assert ["right" in c["@class"] for c in cards] == [True, True, False], "mistakes come last"
    assert "这是哪个数字？" in cards[0]["text"] and "truth" not in cards[0]["text"]
    assert "IoU 0.86" in cards[1]["text"] and "(350,400)" in cards[1]["text"]
    assert (
        "(nothing)" in cards[2]["text"] and "12" in cards[2]["text"] and "Read <i>it</i>." in cards[2]["text"]
    )
    pictures = page.all("img", "picture")
    assert len(pictures) == 3 and all(p["@src"].startswith("data:image/png;base64,") for p in pictures)
    assert all("sharp" in p["@class"] for p in pictures)
    boxes = {r["@class"]: [r[f"@{a}"] for a in ("x", "y", "width", "height")] for r in page.all("rect")}
    assert boxes == {"box-truth": ["1", "2", "349", "398"], "box-answer": ["1", "2", "299", "398"]}


def test_gallery_is_told_apart_by_pick_and_task(run):
    entries = json.loads((run / "gallery.json").read_text())
    entries += [entries[0], entries[1] | {"pick": "sample"}]
    (run / "gallery.json").write_text(json.dumps(entries))
    headings = [" ".join(h["text"].split()) for h in Page(write_report(run)).all("h4")]
    assert headings == [
        "digit 2 of 2 right",
        "box 1 of 1 right, from an IoU of 0.5truthanswer",
        "number",
        "number",
    ]


def test_wide_pictures_get_wide_cards(run):
    Image.new("L", (84, 24), 200).save(run / "gallery" / "001.png")
    grids = [grid["@class"] for grid in Page(write_report(run)).all("div", "cards")]
    assert grids == ["cards", "cards", "cards broad"]


def test_settings_versions_and_keys_are_folded(run):
    folded = Page(write_report(run)).all("details")
    titles = ["Configuration", "Versions", "Data", "Device settings", "Operators"]
    assert [f["text"].split(" ", 1)[0] for f in folded] == [title.split()[0] for title in titles]
    assert all("@open" not in f for f in folded)
    assert "all 3 keys" in folded[0]["text"] and "Device settings 1 · choice: auto" in folded[3]["text"]


def test_charts_sum_themselves_up(run):
    corners = [out["text"] for out in Page(write_report(run)).all("output")]
    assert corners[1:5] == ["peak 0.001", "median 15.2k", "peak 700", "median 1"]


def test_a_run_that_goes_on_says_how_long_its_steps_took(run):
    record = json.loads((run / "run.json").read_text()) | {"status": "running"}
    for key in ("ended", "last_step"):
        del record[key]
    (run / "run.json").write_text(json.dumps(record))
    rows = ({"step": step, "loss": 1.0, "step_ms": 500.0} for step in range(1, 151))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "1 min 15 s so far · 150 of 400 steps" in Page(write_report(run)).text


def test_loads_nothing_from_anywhere(run):
    page = Page(write_report(run))
    for element in page.elements:
        for name in ("@src", "@href", "@action", "@data", "@poster", "@xlink:href"):
            assert element.get(name, "data:").startswith("data:"), element
    assert not page.all("link") and not page.all("iframe") and not page.all("base")
    assert not re.search("https?://", (run / "report.html").read_text(encoding="utf-8"))
    assert all("@src" not in script for script in page.all("script"))
    style = "".join(s["text"] for s in page.all("style"))
    assert "url(" not in style and "@import" not in style
    policy = next(
        m["@content"] for m in page.all("meta") if m.get("@http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "http" not in policy
    assert "prefers-color-scheme: dark" in style


def test_everything_is_escaped(run):
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\'"&'
    record = json.loads((run / "run.json").read_text())
    record["configuration"][evil] = evil
    record["message"] = record["model"]["family"] = record["status"] = evil
    record["device"]["settings"][0] |= {"name": evil, "value": evil, "reason": evil, "stage": evil}
    (run / "run.json").write_text(json.dumps(record))
    entry = {
        "task": evil,
        "question": evil,
        "answer": evil,
        "truth": "x",
        "image": evil,
        "boxes_truth": [[evil] * 4],
    }
    (run / "gallery.json").write_text(json.dumps([entry]))
    (run / "results.json").write_text(json.dumps({evil: 0.5, f"{evil}_exact": 0.5, "digit_exact": evil}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, f"eval_{evil}_exact": 0.5}) + "\n")
    page = Page(write_report(run))
    assert len(page.all("script")) == 1 and not page.all("img")
    assert not [e for e in page.elements for name in e if name.startswith("@on")]
    assert page.text.count('alert("x")') >= 8


@pytest.mark.parametrize("present", [[], ["run.json"], ["metrics.jsonl"], ["results.json"], ["gallery.json"]])
def test_partial_runs(run, present):
    for name in ("run.json", "metrics.jsonl", "results.json", "gallery.json"):
        if name not in present:
            (run / name).unlink()
    page = Page(write_report(run))
    assert ("97.8 %" in page.text) == ("results.json" in present)
    assert ("No step was measured" in page.text) == ("metrics.jsonl" not in present)
    assert bool(page.all("article")) == ("gallery.json" in present)


def test_torn_files_and_values_of_other_forms(run):
    (run / "run.json").write_text('{"status": "run')
    (run / "results.json").write_text("[1, 2]")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "x"}\n{"step": 3, "lo')
    (run / "gallery.json").write_text(
        '[{"image": "../secret.png"}, {"image": "gallery/gone.png"}, 7, {"score": "?"}]'
    )
    (run.parent / "secret.png").write_bytes((run / "gallery" / "000.png").read_bytes())
    page = Page(write_report(run))
    assert not page.all("img"), "nothing outside the run folder is shown"
    assert len(page.all("article")) == 3 and "gallery/gone.png is missing" in page.text
    (run / "run.json").write_text(
        json.dumps({"device": [1], "configuration": None, "command": "x", "steps": "many"})
    )
    Page(write_report(run))


def test_a_run_that_failed_says_why(run):
    record = json.loads((run / "run.json").read_text())
    record |= {"status": "failed", "message": "step 7: the loss is nan", "last_step": 7}
    (run / "run.json").write_text(json.dumps(record))
    page = Page(write_report(run))
    assert "step 7: the loss is nan" in page.text and "7 of 400 steps" in page.text
    assert page.all("span", "bad")[0]["text"] == "failed"


def test_no_folder_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="no run folder"):
        write_report(tmp_path / "none")


def test_ticks_are_round_and_enclose():
    assert linear_ticks(0, 0.0024, 5) == [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025]
    assert linear_ticks(3, 3, 5)[0] <= 3 <= linear_ticks(3, 3, 5)[-1]
    assert log_ticks(0.04, 9) == [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert log_ticks(1e-6, 5) == [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10]
    for low, high in [(0.3, 7.9), (-5, 5), (1e-9, 2e-9), (12345, 12346)]:
        ticks = linear_ticks(low, high, 5)
        assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 12
    assert Scale(0.01, 100, log=True)(1.0) == 50 and Scale(0, 10, down=True)(2.5) == 75


def test_long_lines_keep_their_extremes():
    points = [(float(i), 1.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 99.0)
    points[777] = (777.0, -3.0)
    kept = reduced(points)
    assert len(kept) <= 600 and (54_321.0, 99.0) in kept and (777.0, -3.0) in kept
    assert kept == sorted(kept)
    svg = chart([Line("a", points, "raw")], label="a", form=number)
    assert len(svg) < 60_000


def test_smoothing_neither_lags_nor_shifts():
    ramp = [(float(i), float(i)) for i in range(200)]
    middle = smoothed(ramp, 5)[100]
    assert middle[1] == pytest.approx(100, abs=0.01)
    flat = smoothed([(float(i), 4.0) for i in range(20)], 3)
    assert all(value == pytest.approx(4.0) for _, value in flat)


def test_a_lone_point_is_a_dot_over_its_step():
    svg = chart([Line("loss", [(3.0, 2.5)], "main")], label="a", form=number)
    assert 'class="main dot" d="M500.0 1000.0L500.0 1000.0"' in svg
    assert re.findall(r'class="x"[^>]*>(\d+)<', svg) == ["3"]


def test_numbers_for_people():
    written = [number(v) for v in (0, 0.0312, 12.34, 4210.4, 1.5e-6, 0.00025, -3.2)]
    assert written == ["0", "0.0312", "12.34", "4,210", "1.5e-6", "0.00025", "-3.2"]
    assert [duration(s) for s in (0.4, 59, 272, 7500)] == ["0 s", "59 s", "4 min 32 s", "2 h 05 min"]
    assert [count(v) for v in (36000, 1373792, 7.6e9)] == ["36,000", "1.37 million", "7.6 billion"]


def test_speed_stands_in_the_head_and_time_in_a_table(run):
    text = page(read_run(run))
    assert "15,300 tokens/s · 96.5 samples/s · mfu 41.0 %" in text
    table = text[text.index("Where the time went") :]
    assert "80.0 % · 3 min 20 s" in table and "of 1 Tflop/s, the devices" in table and "padding" in table
    assert "sums over devices" not in table  # no time went into them


def test_a_run_without_speed_has_no_such_section(run):
    record = json.loads((run / "run.json").read_text())
    for broken in ({}, {"throughput": "fast"}, {"throughput": {"mfu": "high", "shares": 3}}):
        kept = {key: value for key, value in record.items() if key != "throughput"}
        (run / "run.json").write_text(json.dumps(kept | broken))
        assert "Where the time went" not in page(read_run(run))
