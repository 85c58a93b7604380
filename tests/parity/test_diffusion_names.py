"""The published sizes: names and shapes of all weights as in diffusers, without memory for either."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("diffusers", reason="live parity needs diffusers")
pytest.importorskip("torch", reason="live parity needs torch")

from mix_core.models.diffusion import published

SIZES = {
    "SD 1.5 U-Net": (published.SD15_UNET, 859_520_964),
    "SDXL U-Net": (published.SDXL_UNET, 2_567_463_684),
    "SD3 medium": (published.SD3_MEDIUM, 2_028_328_000),
    "SD 1.5 VAE": (published.SD15_VAE, 83_653_863),
    "SD3 VAE": (published.SD3_VAE, 83_819_683),
}
"""config.json of each, and its parameters, without the table of positions that SD3's files hold beside."""

PROGRAM = """
import json, sys
import paddle
from mix_core.models.diffusion.network import network
found = {}
for name, source in json.loads(sys.stdin.read()).items():
    kind = network(source["_class_name"])
    with paddle.LazyGuard():
        model = kind.build(kind.config_from_dict(source))
    assert not any(parameter._is_initialized() for parameter in model.parameters())
    found[name] = {weight: list(slot.shape) for weight, slot in kind.slots(model).items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ours() -> dict[str, dict[str, list[int]]]:
    """Of all sizes, from one process."""
    sources = json.dumps({name: source for name, (source, _) in SIZES.items()})
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=sources, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes(ours, name: str) -> None:
    import diffusers
    import torch

    source, parameters = SIZES[name]
    make = getattr(diffusers, source["_class_name"])
    with torch.device("meta"):
        theirs = make.from_config(source)
    assert sum(p.numel() for p in theirs.parameters()) == parameters
    assert ours[name] == {weight: list(values.shape) for weight, values in theirs.state_dict().items()}
