"""The mean of the weights: its formula, and that it stands in for them and gives way again."""

from __future__ import annotations

import numpy as np


def test_the_mean_follows_its_formula_and_changes_places() -> None:
    import paddle

    import mix_core.device as device

    device.activate("cpu")
    from mix_core.training.pictures.average import Average

    weight = paddle.to_tensor(np.array([1.0, 2.0], np.float32))
    average = Average([("w", weight)], [weight], decay=0.3)
    expected, values = np.array([1.0, 2.0]), ([3.0, 0.0], [5.0, 1.0], [-1.0, 4.0])
    for step, value in enumerate(values, start=1):
        weight.set_value(np.array(value, np.float32))
        average.update()
        kept = min(0.3, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * np.array(value)
    np.testing.assert_allclose(average.means[0].numpy(), expected, rtol=1e-6)
    with average.in_place():
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)
    assert weight.numpy().tolist() == values[-1]
