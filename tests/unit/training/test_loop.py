"""One optimizer step on a small model: normalisation over the whole batch, clipping, what is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.errors import DataError
from tests.builders.checkpoints import write_checkpoint

ANSWERS = ("one", "two and some more words", "3", "four, " * 9, "five", "six, " * 5, "seven", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    import mix_core.device as device

    device.activate("cpu")
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def samples(folder) -> list[dict[str, Any]]:
    """Eight samples whose answers differ much in length, so that a mean of means is another number."""
    from mix_core.models.registry import family_of_folder

    processor = family_of_folder(folder).load_processor(folder)
    rows = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in ANSWERS]
    return [processor.encode(messages, max_length=200) | {"sample_id": i} for i, messages in enumerate(rows)]


def fresh(folder: Path, **options: Any) -> Any:
    """A stepper over a model with the same random weights every time."""
    from mix_core.models.registry import load_model
    from mix_core.training.loop import Stepper
    from mix_core.training.optimizer import AdamW
    from mix_core.training.schedule import Schedule

    _, _, model = load_model(folder, random_init=True, seed=3)
    model.train()
    rate = options.pop("learning_rate", 1e-3)
    optimizer = AdamW(model, weight_decay=0.1, epsilon=1e-3)
    return Stepper(
        model, optimizer, Schedule("constant", rate, 10), **{"max_grad_norm": 1.0, "seed": 0} | options
    )


def take(stepper: Any, folder: Path, samples: list[dict[str, Any]], per_pass: int, step: int = 1) -> Any:
    from mix_core.models.registry import family_of_folder
    from mix_core.training.stream import StepBatches

    processor = family_of_folder(folder).load_processor(folder)
    passes = [processor.collate(samples[i : i + per_pass]) for i in range(0, len(samples), per_pass)]
    return stepper.take(step, StepBatches(passes, tokens=1, epoch=1.0, ends_epoch=True), 0.0, 0.0)


def values(stepper: Any) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in stepper.model.named_parameters()}


def test_four_passes_of_two_are_one_pass_of_eight(folder, samples):
    whole, parts = fresh(folder), fresh(folder)
    for step in (1, 2, 3):
        one = take(whole, folder, samples, 8, step)
        four = take(parts, folder, samples, 2, step)
        assert four.loss == pytest.approx(one.loss, rel=1e-6)
        assert four.grad_norm == pytest.approx(one.grad_norm, rel=1e-6)
        assert four.label_tokens == one.label_tokens
    after_one, after_four = values(whole), values(parts)
    for name, expected in after_one.items():
        np.testing.assert_allclose(after_four[name], expected, rtol=0, atol=1e-6, err_msg=name)


def test_the_loss_is_the_mean_over_labels_and_no_mean_of_means(folder, samples):
    from mix_core.models.registry import family_of_folder

    stepper = fresh(folder)
    processor = family_of_folder(folder).load_processor(folder)
    sums, counts = zip(*[stepper.model.loss(processor.collate([sample])) for sample in samples])
    result = take(stepper, folder, samples, 2)
    assert result.label_tokens == sum(counts)
    assert result.loss == pytest.approx(sum(map(float, sums)) / sum(counts), rel=1e-5)
    mean_of_means = np.mean([float(s) / n for s, n in zip(sums, counts)])
    assert abs(result.loss - mean_of_means) > 1e-3


def test_clipping_scales_the_whole_gradient(folder, samples):
    """With plain gradients in the moments, one step of a clipped gradient is one of the scaled gradient."""
    free, clipped = fresh(folder, max_grad_norm=0.0), fresh(folder, max_grad_norm=0.5)
    norm = take(free, folder, samples, 8).grad_norm
    assert norm > 0.5 and take(clipped, folder, samples, 8).grad_norm == pytest.approx(norm, rel=1e-6)
    means = [
        {n: m.numpy() for g in s.optimizer.groups for n, m in zip(g.names, g.means)} for s in (free, clipped)
    ]
    for name, mean in means[0].items():
        np.testing.assert_allclose(means[1][name], mean * (0.5 / norm), rtol=1e-4, atol=1e-9, err_msg=name)


def test_norms_and_biases_do_not_decay(folder):
    optimizer = fresh(folder).optimizer
    decay = {name: group.weight_decay for group in optimizer.groups for name in group.names}
    assert decay["visual.merger.mlp.0.weight"] == 0.1 and decay["model.embed_tokens.weight"] == 0.1
    still = [name for name in decay if "norm" in name or "ln_q" in name or name.endswith("bias")]
    assert len(still) > 10 and all(decay[name] == 0.0 for name in still)


def test_a_parameter_without_a_gradient_is_left_alone(folder, samples):
    """The samples have no pictures, so the vision tower gets no gradient."""
    stepper = fresh(folder)
    before = values(stepper)
    take(stepper, folder, samples, 8)
    after = values(stepper)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and not any(name.startswith("visual.") for name in changed)


def test_what_is_not_finite_is_named_and_nothing_is_updated(folder, samples):
    from mix_core.training.loop import NotFiniteError

    stepper = fresh(folder)
    weight = stepper.model.model.layers[1].mlp.up_proj.weight
    spoilt = weight.numpy()
    spoilt[3, 5] = np.nan
    weight.set_value(spoilt)
    before = values(stepper)
    with pytest.raises(
        NotFiniteError, match=r"step 7: the loss is .*parameter model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        take(stepper, folder, samples, 4, step=7)
    for name, expected in before.items():
        np.testing.assert_array_equal(values(stepper)[name], expected, err_msg=name)


def test_a_gradient_that_is_not_finite_is_named_when_all_parameters_are(folder, samples):
    from mix_core.training.loop import NotFiniteError

    stepper = fresh(folder)
    norm = stepper.model.model.norm.weight
    norm.set_value(np.full(norm.shape, 3e38, np.float32))
    with pytest.raises(NotFiniteError, match=r"the first gradient of \S+ that is not finite has \d+ of \d+"):
        take(stepper, folder, samples, 8)


def test_a_step_without_labels_is_refused(folder, samples):
    blank = [{**sample, "labels": np.full_like(sample["labels"], -100)} for sample in samples]
    with pytest.raises(DataError, match="step 1: none of its samples has a label"):
        take(fresh(folder), folder, blank, 4)


def test_a_loss_scale_changes_nothing_but_the_range(folder, samples):
    """Scaling by a power of two rounds nothing, so that norms and parameters keep their bits."""
    from mix_core.training.loss_scale import LossScale

    plain, scaled = fresh(folder), fresh(folder, loss_scale=LossScale(4096.0))
    for step in (1, 2):
        expected, found = (take(stepper, folder, samples, 4, step) for stepper in (plain, scaled))
        assert (found.loss, found.grad_norm) == (expected.loss, expected.grad_norm)
        assert (found.loss_scale, found.skipped, expected.loss_scale) == (4096.0, False, None)
    after = values(plain)
    for name, value in values(scaled).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_scaled_gradients_that_overflow_cost_the_update_and_nothing_else(folder, samples):
    from mix_core.training.loss_scale import LossScale

    stepper = fresh(folder, loss_scale=LossScale(2.0**130))
    before = values(stepper)
    result = take(stepper, folder, samples, 4)
    assert result.skipped and np.isfinite(result.loss) and not np.isfinite(result.grad_norm)
    assert (result.loss_scale, stepper.loss_scale.scale) == (2.0**130, 2.0**129)
    assert stepper.optimizer.steps == 0
    assert all(parameter.grad is None for parameter in stepper.model.parameters())
    for name, value in values(stepper).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_overflow_at_the_lowest_scale_and_a_loss_that_is_not_finite_end_the_run(folder, samples):
    from mix_core.training.loop import NotFiniteError
    from mix_core.training.loss_scale import LossScale

    stepper = fresh(folder, loss_scale=LossScale(1.0))
    norm = stepper.model.model.norm.weight
    norm.set_value(np.full(norm.shape, 3e38, np.float32))
    with pytest.raises(NotFiniteError, match=r"at loss scale 1; the first gradient of \S+ that is not"):
        take(stepper, folder, samples, 8)

    stepper = fresh(folder, loss_scale=LossScale(1024.0))
    loss = stepper.model.loss
    stepper.model.loss = lambda batch: (loss(batch)[0] * float("nan"), loss(batch)[1])
    with pytest.raises(NotFiniteError, match=r"the loss is nan.*at loss scale 1024; the first gradient"):
        take(stepper, folder, samples, 8)
    assert stepper.loss_scale.scale == 1024.0
