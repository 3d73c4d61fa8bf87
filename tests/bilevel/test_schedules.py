"""Schedules of rho, and the learning rate that follows it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax import bilevel as bl


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (bl.constant(0.3), [0.3, 0.3, 0.3, 0.3]),
        (bl.geometric(0.1, 2.0), [0.1, 0.2, 0.4, 0.8]),
        (bl.geometric(0.1, 2.0, cap=0.3), [0.1, 0.2, 0.3, 0.3]),
        (bl.polynomial(0.1), [0.1, 0.2, 0.3, 0.4]),
        (bl.polynomial(0.1, power=2.0, cap=0.5), [0.1, 0.4, 0.5, 0.5]),
    ],
)
def test_values(schedule, expected):
    got = jax.jit(jax.vmap(schedule))(jnp.arange(4))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_capped_schedule_never_overflows():
    assert float(bl.geometric(1.0, 10.0, cap=5.0)(jnp.int32(10**6))) == 5.0


@pytest.mark.parametrize("rho", [0.0, 1e-30])
def test_a_growth_without_end_makes_no_nan(rho):
    schedule = bl.geometric(rho, 10.0)
    for rate in (schedule, jax.jit(lambda k: bl.geometric(jnp.float32(rho), 10.0)(k))):
        values = [float(rate(jnp.int32(k))) for k in (0, 1, 39, 10**6)]
        assert not any(math.isnan(value) for value in values)
        assert values == sorted(values) and (max(values) == 0) == (rho == 0)


def test_the_coupled_learning_rate_keeps_the_quadratic_step_stable_for_every_rho():
    quadratics = bl.quadratics
    problem = quadratics.random_quadratic(
        jax.random.key(0), 5, forget_range=(0.1, 3.0), retain_range=(0.1, 2.0)
    )
    rho = bl.geometric(1e-3, 10.0)
    eta = bl.couple_to_rho(0.99, rho, curvature_ratio=3.0**2 / 2.0)  # stable iff < 2 / 2 at rho = 0
    for k in range(8):
        step = quadratics.Step(0.0, eta(k), rho(k), 1)
        m = quadratics.iteration_matrix(problem, step, "anchor")
        assert quadratics.spectral_radius(m) < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bl.constant(-1.0), "rho must be a number >= 0, got -1.0"),
        (lambda: bl.geometric(float("nan"), 1.1), "rho must be a number >= 0, got nan"),
        (lambda: bl.geometric(0.1, -2.0), "growth must be"),
        (lambda: bl.polynomial(0.1, cap=-1.0), "cap must be"),
        (lambda: bl.couple_to_rho(-0.1, 0.1), "learning_rate must be"),
        (lambda: bl.couple_to_rho(0.1, 0.1, float("inf")), "curvature_ratio must be"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
