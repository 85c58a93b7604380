"""An adapter that learned under another chat template than its model's is asked under that one."""

from __future__ import annotations

from pathlib import Path

import pytest

import mix_core
from mix_core.errors import BadInputError
from mix_core.inference.merge import merge
from mix_core.models.common.adapter_files import adapter_folder
from mix_core.models.common.adapters import AdapterSet, fingerprint
from mix_core.models.common.chat_template import TEMPLATE_FILE
from mix_core.models.common.lora import LoRASettings, add_adapter, init_adapter
from mix_core.models.registry import load_model

ASKED = [{"role": "user", "content": "hi"}]


@pytest.fixture
def plain(model_folder: Path, tmp_path: Path) -> Path:
    """An adapter that changes nothing, as a run writes it."""
    family, _, model = load_model(model_folder)
    adapters = AdapterSet(model, family)
    chosen = [one for one in adapters.maps if one.name.endswith("q_proj")]
    made_for = fingerprint(chosen)
    add_adapter(model, chosen, "default", LoRASettings(rank=2, alpha=2.0))
    init_adapter(chosen, "default", 0)
    (tmp_path / "plain").mkdir()
    adapters.write(tmp_path / "plain", "default", base=str(model_folder), fingerprint=made_for, learned=())
    return tmp_path / "plain"


def copied(folder: Path, name: str, template: str) -> Path:
    """The adapter again, with a chat template beside it."""
    other = folder.parent / name
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / TEMPLATE_FILE).write_text(template)
    return adapter_folder(other)


def test_a_template_goes_with_its_adapter(model_folder, plain, tmp_path):
    processor = mix_core.load(model_folder, "cpu").processor
    own = processor.apply_chat_template(ASKED)
    loud = copied(plain, "loud", "LOUD:" + processor.template.source)
    engine = mix_core.load(model_folder, "cpu", lora={"loud": loud, "plain": plain})
    texts = {}
    for name in ("loud", "plain", None, "loud"):
        engine.set_adapter(name)
        texts[name] = engine.processor.apply_chat_template(ASKED)
    assert texts == {"loud": "LOUD:" + own, "plain": own, None: own}
    merge(str(model_folder), loud, tmp_path / "merged", device="cpu")
    merged = mix_core.load(tmp_path / "merged", "cpu")
    assert merged.processor.apply_chat_template(ASKED) == "LOUD:" + own


def test_a_broken_template_is_named(model_folder, plain):
    broken = copied(plain, "broken", "{% for %}")
    with pytest.raises(BadInputError, match=r"broken/chat_template\.jinja, line 1"):
        mix_core.load(model_folder, "cpu", lora=broken)
