"""As a new user would: LLaVA with LoRA on the digits by the published sample, in bfloat16 on a simulated NPU,
merged, asked, and its answer drawn."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mix_core.data.digits import PROMPTS, make_pictures
from mix_core.device import native
from mix_core.inference.grounding import iou, parse_boxes
from mix_core.models.common.tensor_files import read_folder
from tests.builders.llava import VICUNA_TEMPLATE, write_json
from tests.environment import run_simulated
from tests.integration.llava_runs import losses, write_run
from tests.integration.training_runs import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.find_compiler()[0] is None, reason=str(native.find_compiler()[1])),
]
SAMPLE = Path(__file__).parents[1] / "unit/config/samples/llava_lora_sft.json"
PICTURES = 6
BASE_STEPS = 120
TEMPLATE = {
    "system": "A chat.",
    "conversation": [" USER: {{user}} ASSISTANT:", " {{bot}}</s>"],
    "query": " USER: {{query}} ASSISTANT:",
}
"""In PaddleNLP's form, as the tool's guide has it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the user starts from: `base`, a small LLaVA that knows how an answer looks, and ChatML rows."""
    folder = tmp_path_factory.mktemp("journey")
    rows = []
    for number, picture in enumerate(islice(make_pictures("train", "box"), PICTURES)):
        Image.fromarray(picture.pixels_HW).save(folder / f"box-{number}.png")
        turns = [[f"<image>\n{PROMPTS['box']}", f"<ref>7</ref>{picture.answer}"]]
        rows.append({"image": f"box-{number}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(rows))
    write_json(folder / "chat_template.json", TEMPLATE)
    config = write_run(
        folder,
        "1.5",
        dataset={"train": str(folder / "train.json")},
        chat_template=str(folder / "chat_template.json"),
        max_steps=BASE_STEPS,
        save_steps=BASE_STEPS,
        max_length=256,
    )
    done = train(config, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    base = Path(shutil.move(folder / f"run/checkpoint-{BASE_STEPS}", folder / "base"))
    shutil.rmtree(base / "training_state")
    (base / "chat_template.jinja").unlink()  # a published folder has its own, not the one of the guide
    write_json(base / "chat_template.json", {"chat_template": VICUNA_TEMPLATE})
    return folder


def on_npu(folder: Path, *words: str) -> str:
    done = run_simulated(["-m", *words], folder, MIX_DEVICE="", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_fine_tuned_merged_asked_and_drawn(folder: Path) -> None:
    config = json.loads(SAMPLE.read_text())
    for key in ("sharding", "sharding_parallel_degree"):  # of eight devices
        del config[key]
    # the sample measures only (`benchmark`), and so keeps nothing that could be merged
    config |= {"model_name_or_path": "base", "benchmark": False, "device": "npu"}
    (folder / "lora_sft_argument.json").write_text(json.dumps(config))
    on_npu(folder, "mix_core.train", "lora_sft_argument.json")
    run = folder / "checkpoints/llava_sft_ckpts"
    found = losses(run)
    assert len(found) == 3 and np.isfinite(found).all()
    record = json.loads((run / "run.json").read_text())
    assert record["configuration"]["dtype"] == "bfloat16" and record["device"]["name"] == "npu"

    merging = ("merge-lora", "--model_name_or_path", "base", "--lora_path", str(run))
    said = on_npu(folder, "mix_core.cli.main", *merging, "--merge_model_path", "merged", "--device", "npu")
    assert said.rstrip().endswith("done: merged")
    before, after = read_folder(folder / "base"), read_folder(folder / "merged")
    changed = {name for name in before if not np.array_equal(before[name].read(), after[name].read())}
    assert changed and all(
        name.endswith(("q_proj.weight", "o_proj.weight")) or "multi_modal_projector" in name
        for name in changed
    )
    asking = ("--image", "box-0.png", "--prompt", PROMPTS["box"], "--max_new_tokens", "40", "--json")
    drawing = ("--dtype", "bfloat16", "--device", "npu", "--draw", "drawn.png")
    adapted = on_npu(
        folder, "mix_core.cli.main", "infer", "--model", "base", "--lora", str(run), *asking, *drawing
    )
    answer = on_npu(folder, "mix_core.cli.main", "infer", "--model", "merged", *asking, *drawing)
    found = json.loads(answer)
    assert found["text"] == json.loads(adapted)["text"], "the template that it learned goes along"
    ((label, corners),) = [(one["label"], one["box"]) for one in found["boxes"]]
    assert label == "7" and iou(corners, truth(folder)) > 0.5
    with Image.open(folder / "drawn.png") as drawn:
        pixels_HWC = np.asarray(drawn.convert("RGB")).astype(int)
    in_colour_HW = pixels_HWC.max(axis=2) - pixels_HWC.min(axis=2) > 30
    height, width = in_colour_HW.shape
    assert max(height, width) >= 512, "a small picture is enlarged"
    left, top, right, bottom = (
        edge * side // 1000 for edge, side in zip(corners, (width, height, width, height))
    )
    middle = slice((top + bottom) // 2, (top + bottom) // 2 + 3)
    for edge in (left, right):
        assert in_colour_HW[middle, max(edge - 8, 0) : edge + 8].any(), "a grey picture, and a coloured box"
    assert not in_colour_HW[height - 4 :, width - 4 :].any() or bottom > height - 12


def truth(folder: Path) -> tuple[int, int, int, int]:
    """The corners that the first row's answer has."""
    row = json.loads((folder / "train.json").read_text())[0]
    return parse_boxes(row["conversations"][0][1])[0].corners
