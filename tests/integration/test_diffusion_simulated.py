"""U-Net, SD3's transformer and the autoencoder in 16 bits on a simulated device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.environment import run_simulated
from tests.unit.models.test_diffusion_inputs import MMDIT, UNET, VAE

PROGRAM = Path(__file__).parents[1] / "programs" / "diffusion_networks.py"
LIMITS = {"bfloat16": 8e-2, "float16": 1.2e-2}
"""Four times an operator's own: these are some twenty of them, one after the other."""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["npu", "xpu", "gpu"])
def test_sixteen_bits_stay_near_float32(device: str, tmp_path: Path) -> None:
    for name, config in (("unet", UNET), ("mmdit", {**MMDIT, "qk_norm": "rms_norm"}), ("vae", VAE)):
        (tmp_path / "networks" / name).mkdir(parents=True)
        (tmp_path / "networks" / name / "config.json").write_text(json.dumps(config))
    done = run_simulated([PROGRAM, tmp_path / "networks"], tmp_path, device=device)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["found"]) == 12
    for name, found in seen["found"].items():
        assert found["distance"] < LIMITS[name.split()[1]], name
        assert found["finite"] and found["without"] == [], name
    assert seen["fallbacks"] == {}
