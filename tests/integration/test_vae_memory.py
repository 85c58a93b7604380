"""A picture of 1024 x 1024 out of the autoencoder in tiles, in memory that does not grow with the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import clean_environment

PROGRAM = """
import json
import mix_core.device as device
device.activate("cpu")
import numpy as np, paddle
from paddle.base import core
from mix_core.models.diffusion.network import network
from mix_core.models.diffusion.published import SD15_VAE
from mix_core.models.diffusion.weights import draw_weights

def peak_mib():
    return core.host_memory_stat_peak_value("Allocated", 0) / 2**20  # of tensors, not what malloc keeps

kind = network("AutoencoderKL")
model = kind.build(kind.config_from_dict({**SD15_VAE, "block_out_channels": [32, 64, 128, 128]}))
draw_weights(model, 0)
model.eval()
model.use_tiles()
found = [peak_mib()]
with paddle.no_grad():
    for height in (128, 256):
        latents = np.random.default_rng(0).standard_normal((1, 4, height, 128), dtype=np.float32)
        picture = model.decode(paddle.to_tensor(latents))
        assert picture.shape == [1, 3, 8 * height, 1024] and bool(paddle.isfinite(picture).all())
        found.append(peak_mib())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_twice_the_picture_needs_no_more_than_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, one, two = json.loads(done.stdout.splitlines()[-1])
    # a quarter of the published channels; whole, the innermost maps of the last level alone are 512 MiB
    assert one - before < 550  # 488 were seen
    assert two - one < 100  # 26, of which the picture is 12
