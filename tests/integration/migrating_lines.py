"""The tables under "Line by line" of docs/migrating.md, and a folder in which their commands can run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.builders.checkpoints import write_checkpoint
from tests.builders.pictures import write_adapter, write_picture_model

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
SAMPLES = Path(__file__).parents[1] / "unit/config/samples"
COMMANDS = ("mix-core ", "python -m mix_core.train ")


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    section: str
    there: str
    here: tuple[str, ...]
    """Commands, or options to lay over `base`; none where nothing has to be typed."""
    note: str
    base: str | None

    @property
    def expected(self) -> int:
        return 2 if self.note.startswith("not built yet") else 0

    def commands(self) -> list[str]:
        return [one if one.startswith(COMMANDS) else _laid_over(str(self.base), one) for one in self.here]

    def is_option(self) -> bool:
        return any(not one.startswith(COMMANDS) for one in self.here)


def _laid_over(base: str, options: str) -> str:
    """The command of a table with these options in the place of its own of the same name."""
    for name in re.findall(r"--[\w.-]+", options):
        base = re.sub(rf"{re.escape(name)} \S+ ?", "", base).rstrip()
    return f"{base} {options}"


def read_lines() -> dict[str, list[Line]]:
    """The rows by section."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Line by line\n", 1)[1].split("\n## ", 1)[0]
    found: dict[str, list[Line]] = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        base = re.search(r"Options stand\s+after\s+`([^`]+)`", body)
        rows = [
            line for line in body.splitlines() if line.startswith("| ") and not line.startswith("| there")
        ]
        for row in rows:
            there, here, note = (cell.strip() for cell in row.strip("|").split(" | "))
            spans = tuple(re.findall(r"`([^`]+)`", here))
            found.setdefault(title, []).append(Line(title, there, spans, note, base[1] if base else None))
    return found


def words_for_a_cpu(command: str) -> list[str]:
    """The words of a command, without the guide's device and 16-bit numbers, and with short answers."""
    on_cpu = re.sub(r"--device (?:npu|xpu)\b", "--device cpu", command)
    words = shlex.split(re.sub(r"--(?:dtype|mixed_precision) (?:bfloat16|float16|fp16)\b", "", on_cpu))
    if "--lr_scheduler" in words and "--output_dir" in words:  # a whole command that trains on pictures
        for name, value in {"resolution": "32", "validation_steps": "2", "max_train_steps": "2"}.items():
            _give(words, f"--{name}", value)
    draws = "--out" in words and "--batch" not in words
    answers = words[:2] in (["mix-core", "infer"], ["mix-core", "chat"]) and not draws
    return [*words, "--max_new_tokens", "4"] if answers else words  # the last one given holds


def _give(words: list[str], option: str, value: str) -> None:
    """In the place of the option's value, or at the end."""
    if option in words:
        words[words.index(option) + 1] = value
    else:
        words += [option, value]


def _with_weights(folder: Path, **sizes: Any) -> None:
    from mix_core.models.registry import load_model

    write_checkpoint(folder, **sizes)
    family, _, model = load_model(folder, random_init=True)
    family.save_weights(model, folder)


def _tiny(folder: Path) -> None:
    source = folder.with_name("its source")
    if not source.exists():
        _with_weights(source)
    folder.symlink_to(source)


def _tiny_of_28_layers(folder: Path) -> None:
    """As deep as the 7B model, for lists of stages as the guide has them."""
    _with_weights(
        folder,
        tie_word_embeddings=False,
        text={"num_hidden_layers": 28, "hidden_size": 32, "intermediate_size": 48},
        vision={"depth": 32, "intermediate_size": 20, "fullatt_block_indexes": [7, 15, 23, 31]},
    )


def _paddle(folder: Path) -> None:
    from mix_core.convert.run import convert

    convert(folder.with_name("its source"), folder, to="paddle")


def _draws(folder: Path) -> None:
    """An SD 1.5 in small: what the commands say is the same for all families."""
    write_picture_model(folder, "unet")


def _draws_by_flow(folder: Path) -> None:
    write_picture_model(folder, "transformer")


MODELS: dict[str, Callable[[Path], None]] = {
    "Qwen2.5-VL-3B-Instruct": _tiny,
    "Qwen2.5-VL-7B-Instruct": _tiny_of_28_layers,
    "Qwen2.5-VL-3B-paddle": _paddle,
    "InternVL2-2B": _tiny,
    "Qwen-VL": _tiny,
    "Qwen-VL-Chat": _tiny,
    "stable-diffusion-xl-base-1.0": _draws,
    "stable-diffusion-3-medium": _draws_by_flow,
}
"""What stands in for each model of the page: a small folder of its family, or of Qwen2.5-VL."""


def write_captioned_pictures(folder: Path, count: int = 4) -> Path:
    """Pictures in a folder, with captions in the column `text`."""
    folder.mkdir()
    draw, rows = np.random.default_rng(0), []
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"a drawing, number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


DRAWS = "stable-diffusion-xl-base-1.0"


def prepare(folder: Path) -> Path:
    """Write every file that the commands of the page name."""
    for name, write in MODELS.items():
        write(folder / name)
    (folder / "sdxl-vae-fp16-fix").symlink_to(folder / DRAWS / "vae")
    (folder / "tuned").mkdir()
    (folder / "tuned/unet").symlink_to(folder / DRAWS / "unet")
    write_adapter(folder / "sdxl-lora")
    for name in ("naruto-blip-captions", "dog"):
        write_captioned_pictures(folder / name)
    draw = np.random.default_rng(0)
    for name in ("picture.jpg", "other.jpg"):
        Image.fromarray(draw.integers(0, 256, (40, 56, 3), np.uint8)).save(folder / name)
    from tests.builders.videos import write_video

    write_video(folder / "red-panda.mkv", 20)
    _write_rows(folder)
    _write_configurations(folder)
    return folder


def _write_rows(folder: Path) -> None:
    user = {"from": "user", "value": "Picture 1: <img>picture.jpg</img>\n框出图中的巴士的位置"}
    answer = {"from": "assistant", "value": "<ref>巴士</ref><box>(178,279),(806,884)</box>"}
    rows = [{"id": f"identity_{i}", "conversations": [user, answer]} for i in range(2)]
    rows.append({"id": "text", "conversations": [{"from": "user", "value": "你好"}, answer]})
    for name in ("train.json", "val.json"):
        (folder / name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "meta.json").write_text(json.dumps({"chartqa": {"annotation": "train.json", "repeat_time": 1}}))
    questions = [{"prompt": "what?", "image": name} for name in ("picture.jpg", "other.jpg")]
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(one) for one in [*questions, *questions]))


def _write_configurations(folder: Path) -> None:
    """The guides' configurations, for one CPU and a few steps."""
    small = {"device": "cpu", "bf16": False, "num_train_epochs": 1, "max_length": 512, "progress_bar": False}
    tool = json.loads((SAMPLES / "qwen_vl_sft.json").read_text())
    tool |= small | {"model_name_or_path": "Qwen-VL-Chat", "output_dir": "./checkpoints/qwen_vl_sft_ckpts"}
    tool |= {"benchmark": False, "freeze_exclude": None}
    (folder / "sft_argument.json").write_text(json.dumps(tool))
    tool |= {"lora": True, "lora_rank": 4, "output_dir": "./checkpoints/qwen_vl_lora_ckpts"}
    (folder / "lora_sft_argument.json").write_text(json.dumps(tool))
    data = json.loads((SAMPLES / "mindspeed_data.json").read_text())
    parameters = data["dataset_param"]
    parameters["preprocess_parameters"] |= {"model_name_or_path": "./Qwen2.5-VL-3B-Instruct"}
    parameters["basic_parameters"] |= {"dataset_dir": ".", "dataset": "./train.json", "max_samples": 3}
    (folder / "data.json").write_text(json.dumps(data))
