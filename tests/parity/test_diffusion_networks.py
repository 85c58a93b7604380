"""U-Net, SD3's transformer and the autoencoder against diffusers in float32: outputs and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="live parity needs diffusers")
torch = pytest.importorskip("torch", reason="live parity needs torch")

import paddle  # noqa: E402

from tests.parity.agreement import note  # noqa: E402
from tests.parity.diffusion_peer import (  # noqa: E402
    GRADIENTS,
    OUTPUTS,
    Peers,
    as_ours,
    as_theirs,
    assert_gradients,
    distance,
)


def slow(value: Any) -> Any:
    """A case that is held back, because another one goes the same way through most of the code."""
    return pytest.param(value, marks=pytest.mark.slow)


DENOISERS = (slow("SD 1.5"), "SDXL", slow("SD3"), "SD3.5")
AUTOENCODERS = ("VAE of 4 channels", slow("VAE of 16 channels"))
STILL = {
    "SD 1.5": (),
    "SDXL": (),
    "SD3": ("2.attn.add_q_proj.weight", "2.attn.add_q_proj.bias"),
    "SD3.5": ("2.attn.add_q_proj.weight", "2.attn.add_q_proj.bias", "2.attn.norm_added_q.weight"),
}
"""Parameters that cannot affect the result: the last block drops what the text's queries find."""
STILL_VAE = ("attentions.0.to_k.bias",)
"""It adds the same to all scores of a query, which softmax takes out again."""


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Peers] = {}

    def get(kind: str) -> Peers:
        if kind not in made:
            made[kind] = Peers(kind, tmp_path_factory.mktemp("peers"))
        return made[kind]

    return get


def both(pair: Peers, **size: int) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Results and inputs, ours and theirs, after going backward from a weighted sum."""
    given = pair.arguments(**size)
    ours, theirs = as_ours(given), as_theirs(given)
    pair.theirs.zero_grad()
    pair.ours.clear_gradients(set_to_zero=False)
    expected = pair.their_call(theirs)
    weights = np.random.default_rng(1).standard_normal(expected.shape, dtype=np.float32)
    (expected * torch.tensor(weights)).sum().backward()
    found = pair.ours(**ours)
    (found * paddle.to_tensor(weights)).sum().backward()
    return found, expected, ours, theirs


@pytest.mark.parametrize("kind", DENOISERS)
def test_output_and_gradients(peers, kind: str) -> None:
    pair: Peers = peers(kind)
    found, expected, ours, theirs = both(pair)
    assert note(f"{kind}, outputs", distance(found, expected)) < OUTPUTS
    for name, tensor in theirs.items():
        if tensor.grad is not None and name not in ("timestep", "time_ids"):
            assert distance(ours[name].grad.numpy(), tensor.grad.numpy()) < GRADIENTS, name
    assert_gradients(*pair.gradients(), STILL[kind], kind=kind)


@pytest.mark.parametrize("kind", [slow("SD 1.5"), slow("SDXL"), "SD3.5"])
def test_computing_blocks_again_gives_the_same(peers, kind: str) -> None:
    pair: Peers = peers(kind)
    found, _, inputs, _ = both(pair)
    plain = {name: p.grad.numpy() for name, p in pair.ours.named_parameters()}
    text = inputs["encoder_hidden_states"].grad.numpy()
    pair.ours.train()
    pair.ours.recompute = True
    try:
        again, _, inputs, _ = both(pair)
    finally:
        pair.ours.recompute = False
        pair.ours.eval()
    np.testing.assert_array_equal(again.numpy(), found.numpy())
    assert distance(inputs["encoder_hidden_states"].grad.numpy(), text) < 1e-6
    for name, parameter in pair.ours.named_parameters():
        limit = 1e-5 * max(np.linalg.norm(plain[name]), 1e-3)
        assert np.linalg.norm(parameter.grad.numpy() - plain[name]) <= limit, name


@pytest.mark.slow
def test_sides_that_do_not_halve_evenly(peers) -> None:
    found, expected, _, _ = both(peers("SD 1.5"), height=10, width=6)
    assert distance(found, expected) < OUTPUTS


def test_one_time_step_serves_all_rows(peers) -> None:
    pair: Peers = peers("SDXL")
    given = as_ours(pair.arguments()) | {"timestep": 42}
    theirs = as_theirs(pair.arguments()) | {"timestep": 42}
    assert distance(pair.ours(**given), pair.their_call(theirs)) < OUTPUTS


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_autoencoder_both_ways(peers, kind: str) -> None:
    pair: Peers = peers(kind)
    rng = np.random.default_rng(0)
    picture = rng.standard_normal((2, 3, 16, 24), dtype=np.float32)
    latents = pair.ours.config.latent_channels
    noise, weights = (rng.standard_normal(s, np.float32) for s in ((2, latents, 4, 6), picture.shape))
    ours, theirs = as_ours({"x": picture})["x"], as_theirs({"x": picture})["x"]
    pair.theirs.zero_grad()
    pair.ours.clear_gradients(set_to_zero=False)

    wanted = pair.theirs.encode(theirs).latent_dist
    drawn = wanted.mean + wanted.std * torch.tensor(noise)
    expected = pair.theirs.decode(drawn).sample
    ((expected * torch.tensor(weights)).sum() + wanted.kl().sum()).backward()
    got = pair.ours.encode(ours)
    found = pair.ours.decode(got.sample(paddle.to_tensor(noise)))
    ((found * paddle.to_tensor(weights)).sum() + got.divergence().sum()).backward()

    assert distance(got.mean, wanted.mean) < OUTPUTS
    assert distance(got.log_variance, wanted.logvar) < OUTPUTS
    assert note(f"{kind}, outputs", distance(found, expected)) < OUTPUTS
    assert distance(ours.grad.numpy(), theirs.grad.numpy()) < GRADIENTS
    assert_gradients(*pair.gradients(), STILL_VAE, kind=kind)


@pytest.mark.parametrize("shape", [(2, 4, 9, 7), slow((1, 4, 4, 10)), slow((1, 4, 5, 4))])
def test_tiles_and_slices(peers, shape: tuple[int, ...]) -> None:
    pair: Peers = peers("VAE of 4 channels")
    z = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    picture = np.random.default_rng(3).standard_normal((2, 3, 4 * shape[2], 4 * shape[3]), dtype=np.float32)
    pair.theirs.enable_tiling()
    pair.ours.use_tiles()
    pair.ours.slices = True
    try:
        with torch.no_grad(), paddle.no_grad():
            expected = pair.theirs.decode(torch.tensor(z)).sample
            assert distance(pair.ours.decode(paddle.to_tensor(z)), expected) < OUTPUTS
            wanted = pair.theirs.encode(torch.tensor(picture)).latent_dist
            assert distance(pair.ours.encode(paddle.to_tensor(picture)).mean, wanted.mean) < OUTPUTS
    finally:
        pair.theirs.disable_tiling()
        pair.ours.tiles, pair.ours.slices = None, False


def test_latents_for_the_network_and_back(peers) -> None:
    ours = peers("VAE of 16 channels").ours
    z = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 16, 2, 2)).astype(np.float32))
    np.testing.assert_allclose(ours.to_network(z).numpy(), (z.numpy() - 0.0609) * 1.5305, rtol=1e-6)
    np.testing.assert_allclose(ours.from_network(ours.to_network(z)).numpy(), z.numpy(), rtol=1e-5, atol=1e-6)
