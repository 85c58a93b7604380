"""Updates while a pass goes back: the same bits, few gradients at a time, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mix_core.config import load_config
from mix_core.errors import ConfigError, RunFailedError
from mix_core.training.layout import layout_of
from tests.builders.checkpoints import write_checkpoint
from tests.environment import clean_environment

BUNCH = 1 << 12
"""Most matrices of the small model are updated alone; norms and biases wait for one."""
ANSWERS = ("one", "two and some more words", "3", "four, " * 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    import mix_core.device as device

    device.activate("cpu")
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def fresh(folder: Path, *, in_backward: int, recompute: bool = False) -> Any:
    """A stepper over the same random weights every time, which clips nothing."""
    from mix_core.models.registry import load_model
    from mix_core.training.loop import Stepper
    from mix_core.training.optimizer import AdamW
    from mix_core.training.schedule import Schedule

    _, _, model = load_model(folder, random_init=True, seed=3)
    model.train()
    model.recompute = recompute
    optimizer = AdamW(model, weight_decay=0.1, in_backward=in_backward)
    return Stepper(model, optimizer, Schedule("linear", 1e-3, 10), max_grad_norm=0.0, seed=0)


def take(stepper: Any, folder: Path, step: int = 1, per_pass: int = len(ANSWERS)) -> Any:
    from mix_core.models.registry import family_of_folder
    from mix_core.training.stream import StepBatches

    processor = family_of_folder(folder).load_processor(folder)
    rows = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in ANSWERS]
    samples = [processor.encode(row, max_length=200) | {"sample_id": i} for i, row in enumerate(rows)]
    passes = [processor.collate(samples[i : i + per_pass]) for i in range(0, len(samples), per_pass)]
    return stepper.take(step, StepBatches(passes, tokens=1, epoch=1.0, ends_epoch=True), 0.0, 0.0)


def state_of(stepper: Any) -> dict[str, np.ndarray]:
    """Parameters and all that the optimizer keeps."""
    kept = {part.name: part.tensor for part in stepper.optimizer.kept()}
    named = dict(stepper.model.named_parameters()) | kept
    return {name: tensor.numpy() for name, tensor in named.items()}


@pytest.mark.parametrize("recompute", [False, True])
def test_steps_are_the_same_to_the_bit(folder, recompute):
    behind, within = (fresh(folder, in_backward=given, recompute=recompute) for given in (0, BUNCH))
    sizes = [int(parameter.size) for _, parameter in within.optimizer.named_parameters()]
    assert min(sizes) < BUNCH <= max(sizes), "both ways of an update are to be seen"
    for step in (1, 2, 3):
        expected, found = (take(stepper, folder, step) for stepper in (behind, within))
        assert (found.loss, found.grad_norm) == (expected.loss, expected.grad_norm)
    assert within.optimizer.steps == 3
    after = state_of(behind)
    for name, value in state_of(within).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_masters_of_narrow_parameters_move_and_these_follow(folder):
    import paddle

    from mix_core.training.optimizer import AdamW

    ends = []
    for in_backward in (0, BUNCH):
        paddle.seed(1)
        layer = paddle.nn.Linear(80, 64)
        masters = {name: p.detach().clone() for name, p in layer.named_parameters()}
        layer.to(dtype="bfloat16")
        optimizer = AdamW(layer, masters=masters, weight_decay=0.1, in_backward=in_backward)
        for step in (1, 2, 3):
            x = paddle.to_tensor(np.random.default_rng(step).standard_normal((80, 64)).astype(np.float32))
            loss = (x * layer.weight.astype("float32")).square().sum() + layer.bias.astype("float32").sum()
            optimizer.before_backward(loss, 1e-2, 0.5)
            loss.backward()
            optimizer.after_pass()
            norm = optimizer.gradient_norm(loss)
            optimizer.step(1e-2, grad_scale=0.5)
            optimizer.clear_grad()
        rounded = masters["weight"].astype("bfloat16")
        assert bool((rounded == layer.weight).all())
        ends.append((norm, masters["weight"].numpy(), masters["bias"].numpy()))
    (norm, weight, bias), (norm_within, weight_within, bias_within) = ends
    assert norm == norm_within and np.unique(weight).size > 1000
    np.testing.assert_array_equal(weight_within, weight)
    np.testing.assert_array_equal(bias_within, bias)


def test_the_mean_of_the_weights_takes_every_step():
    import paddle

    from mix_core.training.pictures.average import AveragedAdamW

    means = []
    for in_backward in (0, BUNCH):
        paddle.seed(1)
        layer = paddle.nn.Linear(80, 64)
        optimizer = AveragedAdamW(layer, in_backward=in_backward)
        average = optimizer.average_with(0.9)
        for _ in range(3):
            loss = layer(paddle.ones([2, 80])).square().sum()
            optimizer.before_backward(loss, 1e-2, 1.0)
            loss.backward()
            optimizer.after_pass()
            optimizer.step(1e-2)
            optimizer.clear_grad()
        means.append([mean.numpy() for mean in average.means])
    for behind, within in zip(*means):
        np.testing.assert_array_equal(within, behind)


def test_large_gradients_never_stand_together(folder):
    """Seen whenever one arrives: behind the pass all of them stood, within it this one alone."""

    def standing(in_backward: int) -> list[int]:
        stepper = fresh(folder, in_backward=in_backward)
        large = [p for _, p in stepper.optimizer.named_parameters() if p.size >= BUNCH]
        seen: list[int] = []
        for parameter in large:  # called behind the update
            parameter._register_backward_hook(lambda *_: seen.append(sum(p.grad is not None for p in large)))
        take(stepper, folder)
        return seen

    without, within = standing(0), standing(BUNCH)
    assert max(without) == len(without) > 4
    assert len(within) == len(without) and max(within) == 0


def test_a_process_never_holds_all_gradients(tmp_path):
    """40 layers of 4 MiB: 160 MiB of gradients behind the pass, one layer's within it."""
    program = Path(__file__).parents[2] / "programs" / "update_memory.py"

    def grown_mib(in_backward: int) -> float:
        command = [sys.executable, str(program), "40", str(in_backward)]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return found["peak"] - found["before"]

    assert grown_mib(0) > 150 and grown_mib(1 << 20) < 40


def test_from_a_loss_that_is_not_finite_nothing_is_learnt(folder):
    from mix_core.training.loop import NotFiniteError

    stepper = fresh(folder, in_backward=BUNCH)
    weight = stepper.model.model.layers[1].mlp.up_proj.weight
    spoilt = weight.numpy()
    spoilt[3, 5] = np.nan
    weight.set_value(spoilt)
    before = state_of(stepper)
    with pytest.raises(NotFiniteError, match=r"the loss is nan.*parameter model\.layers\.1\.mlp\.up_proj"):
        take(stepper, folder)
    for name, expected in before.items():
        np.testing.assert_array_equal(state_of(stepper)[name], expected, err_msg=name)


def test_a_gradient_that_is_not_finite_is_named_as_applied(folder):
    from mix_core.training.loop import NotFiniteError

    stepper = fresh(folder, in_backward=BUNCH)
    loss = stepper.model.loss
    stepper.model.loss = lambda batch: (loss(batch)[0] * 1e30, loss(batch)[1])
    told = r"loss is \d\S*e\+30, .*not finite was that of \S+, and it has been applied"
    with pytest.raises(NotFiniteError, match=told):
        take(stepper, folder)


def test_a_gradient_in_two_parts_ends_the_run(folder):
    """A second pass stands for whatever gives a parameter its gradient twice."""
    stepper = fresh(folder, in_backward=BUNCH)
    with pytest.raises(RunFailedError, match="had its gradient in more than one part"):
        take(stepper, folder, per_pass=2)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "max_grad_norm 1 needs all gradients .* give max_grad_norm 0, or leave"),
        ({"max_grad_norm": "0", "gradient_accumulation_steps": "4"}, "gradient_accumulation_steps 4 needs"),
        (
            {"max_grad_norm": "0", "per_device_train_batch_size": "1", "global_batch_size": "8"},
            "gradient_accumulation_steps 8 needs all",
        ),
        ({"max_grad_norm": "0", "dtype": "float16"}, "dtype float16 needs all .* give bfloat16 or float32"),
        ({"max_grad_norm": "0", "module_stats_steps": "2"}, "module_stats_steps 2 needs all .* give 0"),
    ],
)
def test_what_needs_all_gradients_is_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        load_config(arguments={"optimizer_in_backward": "true"} | keys)


def test_several_devices_are_refused():
    config = load_config(arguments={"optimizer_in_backward": "true", "max_grad_norm": "0"})
    assert layout_of(config, 1).ranks == 1
    with pytest.raises(ConfigError, match=r"optimizer_in_backward on 2 devices: .* \(sharding stage2"):
        layout_of(config, 2)
