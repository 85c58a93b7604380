"""Two ranks load a published checkpoint: each byte is read once by both, and little is held beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.device import native
from mix_core.models.common.tensor_files import read_folder
from tests.builders.checkpoints import write_checkpoint
from tests.integration.simulated_fleet import launch, run_alone

pytestmark = pytest.mark.skipif(native.find_compiler()[0] is None, reason=native.find_compiler()[1])
SHARD_BYTES = 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True], ids=["whole", "divided"])
def test_each_byte_is_read_once_and_a_shard_bounds_what_is_held(tmp_path, divided):
    text = {"intermediate_size": 4096}
    model = write_checkpoint(tmp_path / "model", text=text, weights=True, max_shard_size="2MB")
    assert len(list(model.glob("model-*.safetensors"))) > 2
    alone = run_alone(tmp_path, "npu", "load_weights.py")
    whole = dict(np.load(tmp_path / "0.npz"))
    ranks = launch(tmp_path, "npu", "load_weights.py", *(["divided"] if divided else [])).ranks
    stored = read_folder(model).values()
    everything = sorted((one.file.name, one.start, one.size_bytes) for one in stored)
    assert sorted(map(tuple, alone["reads"])) == everything
    assert sorted(tuple(read) for rank in ranks for read in rank["reads"]) == everything
    shares = [sum(size for _, _, size in rank["reads"]) for rank in ranks]
    assert abs(shares[0] - shares[1]) <= max(one.size_bytes for one in stored)
    for rank in ranks:
        assert bool(rank["parts"]) == divided
        assert rank["device_peak"] <= rank["model"] + SHARD_BYTES
        assert rank["host_peak"] <= SHARD_BYTES
    for i, rank in enumerate(ranks):
        held = dict(np.load(tmp_path / f"{i}.npz"))
        assert held.keys() == whole.keys()
        for name, values in held.items():
            wanted = whole[name]
            if name in rank["parts"]:
                offset, shape = rank["parts"][name]
                wanted = wanted[tuple(slice(start, start + size) for start, size in zip(offset, shape))]
            assert np.array_equal(values, wanted), name
