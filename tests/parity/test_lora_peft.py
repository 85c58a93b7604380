"""PEFT reads our adapters and we read PEFT's: the same logits over one tiny Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.models.common.adapter_files import TENSORS, read_adapter, read_header
from mix_core.models.common.adapters import AdapterSet, fingerprint
from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter, of_name
from mix_core.models.registry import load_model
from mix_core.training.lora import targets
from tests.builders.checkpoints import write_checkpoint

peft = pytest.importorskip("peft", reason="live parity needs peft")
torch = pytest.importorskip("torch", reason="live parity needs torch")

IDS = np.random.default_rng(0).integers(0, 250, (2, 9))
KINDS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
}
FARTHEST = 2e-6
"""Of the largest logit, float32: what two ways of adding up the same products come to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), weights=True)


def transformers_model(folder: Path) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def peft_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.numpy()


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("learned", [(), ("visual.merger.mlp.0.weight", "model.norm.weight")])
def test_peft_reads_ours(folder, tmp_path, kind, learned):
    family, _, model = load_model(folder)
    alone = model.logits({"input_ids": IDS}).numpy()
    adapters = AdapterSet(model, family)
    chosen = targets(adapters.maps, None)
    made_for = fingerprint(chosen)
    add_adapter(model, chosen, "default", LoRASettings(rank=4, alpha=8.0, **KINDS[kind]))
    init_adapter(chosen, "default", 0)
    rng = np.random.default_rng(0)
    for _, adapter in of_name(chosen, "default"):
        adapter.up.set_value(rng.normal(0, 0.1, adapter.up.shape).astype(np.float32))
        if adapter.magnitude is not None:
            factor = rng.uniform(0.8, 1.2, adapter.magnitude.shape).astype(np.float32)
            adapter.magnitude.set_value(adapter.magnitude.numpy() * factor)
    for name in learned:
        parameter = dict(model.named_parameters())[name]
        parameter.set_value(parameter.numpy() * 1.5)
    adapters.write(tmp_path, "default", base=str(folder), fingerprint=made_for, learned=learned)
    theirs = peft.PeftModel.from_pretrained(transformers_model(folder), tmp_path).eval()
    ours = model.logits({"input_ids": IDS}).numpy()
    assert apart(ours, alone) > 0.01
    assert apart(ours, peft_logits(theirs)) < FARTHEST
    # and what PEFT writes of it comes back, under the names that modules have in its memory
    theirs.save_pretrained(tmp_path / "again")
    assert any(".language_model." in name for name in read_header(tmp_path / "again" / TENSORS))
    family, _, model = load_model(folder)
    AdapterSet(model, family).add("x", read_adapter(tmp_path / "again"))
    assert apart(model.logits({"input_ids": IDS}).numpy(), ours) < FARTHEST


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_we_read_pefts(folder, tmp_path, kind):
    names = {"rslora": "use_rslora", "dora": "use_dora"}
    keys = {names[key]: value for key, value in KINDS[kind].items()}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=r".*\.(qkv|q_proj|down_proj)", **keys)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(transformers_model(folder), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path)
    family, _, model = load_model(folder)
    adapters = AdapterSet(model, family)
    adapters.add("x", read_adapter(tmp_path))
    changed = {one.path.split(".")[-1] for one, _ in of_name(adapters.maps, "x")}
    assert changed == {"qkv", "q_proj", "down_proj"}  # the tower's too
    assert apart(model.logits({"input_ids": IDS}).numpy(), peft_logits(theirs)) < FARTHEST
