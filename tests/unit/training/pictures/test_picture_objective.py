"""What a sample weighs and is compared with, against the papers' formulas worked out here."""

from __future__ import annotations

import numpy as np
import pytest

from mix_core.config import RunConfig
from mix_core.errors import ConfigError
from mix_core.schedulers import make_scheduler

BETAS = {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.4, "num_train_timesteps": 4}
SAMPLES = [7, 8, 9, 10]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> None:
    import mix_core.device as device

    device.activate("cpu")


def drawn(scheduler: object, **keys: object) -> tuple[object, np.ndarray]:
    import paddle

    from mix_core.training.pictures.objective import objective_of

    clean = np.random.default_rng(0).standard_normal((4, 2, 3, 3), dtype=np.float32)
    objective = objective_of(RunConfig(**keys), scheduler)
    return objective.noised(paddle.to_tensor(clean), 1, 5, SAMPLES), clean


def test_each_sample_is_weighed_by_its_own_level() -> None:
    """The mean comes last: a batch's loss is the mean of what its samples alone give."""
    import paddle

    from mix_core.training.pictures.objective import weighted_errors

    output, target = np.zeros((2, 3, 4, 4), np.float32), np.ones((2, 3, 4, 4), np.float32)
    output[1] = 3.0
    found = weighted_errors(*map(paddle.to_tensor, (output, target)), np.array([0.5, 0.25]))
    np.testing.assert_allclose(found.numpy(), [0.5 * 1, 0.25 * 4], rtol=1e-6)


def test_diffusion_by_hand() -> None:
    left = np.cumprod(1 - np.linspace(0.1, 0.4, 4))
    found, clean = drawn(make_scheduler("ddpm", BETAS), snr_gamma=0.5)
    levels = np.asarray(found.timesteps)
    shape = (-1, 1, 1, 1)
    noise = found.target.numpy()
    expected = np.sqrt(left[levels]).reshape(shape) * clean + np.sqrt(1 - left[levels]).reshape(shape) * noise
    np.testing.assert_allclose(found.inputs.numpy(), expected, rtol=1e-4, atol=1e-5)
    snr = left[levels] / (1 - left[levels])
    np.testing.assert_allclose(found.weights, np.minimum(snr, 0.5) / snr, rtol=1e-5)
    assert len(set(levels.tolist())) > 1


def test_velocity_at_the_level_of_pure_noise() -> None:
    keys = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_gamma": 5.0}
    found, clean = drawn(make_scheduler("ddpm", BETAS), **keys)
    last = np.asarray(found.timesteps) == 3
    assert last.any(), "the draws of this seed reach the last level"
    np.testing.assert_allclose(found.target.numpy()[last], -clean[last], rtol=1e-6)
    assert (found.weights[last] == 0).all() and (found.weights[~last] > 0).all()


def test_noise_offset_and_perturbation_change_what_they_should() -> None:
    schedule = make_scheduler("ddpm", BETAS)
    plain, _ = drawn(schedule)
    offset, _ = drawn(schedule, noise_offset=0.5)
    shift = offset.target.numpy() - plain.target.numpy()
    np.testing.assert_allclose(shift, np.broadcast_to(shift[..., :1, :1], shift.shape), atol=1e-6)
    assert np.abs(shift).max() > 0.05
    perturbed, _ = drawn(schedule, input_perturbation=0.1)
    np.testing.assert_array_equal(perturbed.target.numpy(), plain.target.numpy())
    assert np.abs(perturbed.inputs.numpy() - plain.inputs.numpy()).max() > 0.01


def test_a_flow_by_hand() -> None:
    found, clean = drawn(make_scheduler("flow", {"shift": 3.0}), weighting_scheme="cosmap")
    sigmas = np.asarray(found.timesteps, np.float64) / 1000
    noise = found.target.numpy() + clean
    shape = (-1, 1, 1, 1)
    expected = sigmas.reshape(shape) * noise + (1 - sigmas).reshape(shape) * clean
    np.testing.assert_allclose(found.inputs.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.weights, 2 / (np.pi * (1 - 2 * sigmas + 2 * sigmas**2)), rtol=1e-5)


def test_what_a_sample_draws_does_not_depend_on_its_batch() -> None:
    import paddle

    from mix_core.training.pictures.objective import objective_of

    objective = objective_of(RunConfig(), make_scheduler("flow"))
    clean = paddle.zeros([3, 1, 2, 2])
    together = objective.noised(clean, 1, 2, [5, 6, 7])
    alone = objective.noised(clean[1:2], 1, 2, [6])
    np.testing.assert_array_equal(together.inputs.numpy()[1:2], alone.inputs.numpy())
    assert together.timesteps[1] == alone.timesteps[0]


@pytest.mark.parametrize(
    ("kind", "keys", "says"),
    [
        ("flow", {"snr_gamma": 5.0}, "snr_gamma has no say: the model learns a flow"),
        ("ddpm", {"weighting_scheme": "mode"}, "weighting_scheme has no say: the model learns diffusion"),
        ("ddpm", {"rescale_betas_zero_snr": True}, "prediction_type v_prediction"),
    ],
)
def test_keys_that_do_not_fit_the_model(kind: str, keys: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        drawn(make_scheduler(kind), **keys)
