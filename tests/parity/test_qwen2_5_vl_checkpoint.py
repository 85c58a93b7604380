"""Folders go both ways: what transformers writes we read, what we write it reads, with the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="live parity needs transformers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.models import load_model  # noqa: E402
from tests.builders.checkpoints import write_checkpoint  # noqa: E402
from tests.parity.agreement import distance  # noqa: E402
from tests.parity.peer import Peers  # noqa: E402


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [60_000, 1 << 30])
def test_transformers_loads_what_we_write(tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = tmp_path / "theirs"
    folder.mkdir()
    pair = Peers(folder, tied=tied)
    written = tmp_path / "ours"
    written.mkdir()
    pair.family.save_weights(pair.ours, written, max_shard_bytes=shard_bytes)
    pair.family.write_config(pair.ours.config, written)
    assert (len(list(written.glob("*.safetensors"))) > 1) is (shard_bytes < 1 << 20)

    loaded, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(written, output_loading_info=True)
    assert not any(report.values()), report
    for (name, parameter), (_, expected) in zip(
        loaded.named_parameters(), pair.theirs.named_parameters(), strict=True
    ):
        np.testing.assert_array_equal(parameter.detach().numpy(), expected.detach().numpy(), err_msg=name)
    batch = pair.batch([[3, ("image", (1, 6, 8)), 5]])
    with torch.no_grad():
        logits = loaded.eval()(**pair.for_theirs(batch)).logits.numpy()
    assert distance(pair.ours(**batch).numpy(), logits) < 1e-5


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_we_load_what_transformers_writes(tmp_path: Path, layout: str) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    write_checkpoint(tmp_path, layout=layout, weights=True, max_shard_size="50KB", tie_word_embeddings=False)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = np.random.default_rng(0).integers(0, 200, (2, 12))
    with torch.no_grad():
        expected = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)(input_ids=torch.tensor(ids))
    assert distance(load_model(tmp_path)[2](ids).numpy(), expected.logits.numpy()) < 1e-5
