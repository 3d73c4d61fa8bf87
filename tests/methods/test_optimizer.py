"""The optimiser that all methods of language share, step by step in NumPy."""

import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.methods import Npo, Ofmu


def by_hand(start, gradients, rates, clip, decay):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) on gradients clipped to a norm."""
    x, m, v = np.asarray(start, np.float64), 0.0, 0.0
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = g * min(1.0, clip / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        x = x - rate * (direction + decay * x)
    return x


def test_clipped_adamw_with_decay_on_a_rising_and_falling_schedule():
    random = np.random.default_rng(0)
    x = start = random.normal(size=5).astype(np.float32)
    scales = [0.1, 10.0, 1.0, 0.2, 5.0]  # below and above the clip
    gradients = [s * random.normal(size=5).astype(np.float32) for s in scales]
    method = Npo(learning_rate=0.1, weight_decay=0.3, max_grad_norm=0.5, warmup=0.4)
    # Two of five steps of warm-up: a third, two thirds, all of the peak, and down to a third.
    rates = 0.1 * np.array([1, 2, 3, 2, 1]) / 3
    tx = method.optimizer(5)
    state = tx.init(start)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, x)
        x = x + updates
    np.testing.assert_allclose(x, by_hand(start, gradients, rates, 0.5, 0.3), rtol=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_a_schedule_ends_at_zero(warmup):
    schedule = Npo(warmup=warmup).schedule(10)
    values = [float(schedule(step)) for step in range(11)]
    assert values[-1] == 0 and max(values) == 1 and min(values[:-1]) > 0


@pytest.mark.parametrize("field", ["learning_rate", "max_grad_norm", "weight_decay"])
def test_numbers_out_of_range_are_refused(field):
    with pytest.raises(InputError, match=f"method npo: {field} must be"):
        Npo(**{field: -1.0})
    with pytest.raises(InputError, match=f"method ofmu: {field} must be"):
        Ofmu(**{field: float("nan")})
