"""The rate fitted to the retain loss: exact on a parabola, lazy, and never wild."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax import aggregators
from ofmu_jax.aggregators import scale_by_fitted_rate


def quadratic(seed):
    """L(p) = p H p / 2 - b p with H positive definite."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    hessian, b, p = root @ root.T + 0.1 * np.eye(4), *rng.normal(size=(2, 4))
    return hessian, b, p


def value(hessian, b):
    return lambda p: 0.5 * p @ hessian @ p - b @ p


def factors(tx, u, p, loss, steps):
    """The rates of successive steps at the same point."""
    state, rates = tx.init(p), []
    for _ in range(steps):
        _, state = tx.update(u, state, p, retain_fn=loss)
        rates.append(float(state.rate))
    return rates


@jax.jit
def fit_twice(hessian, b, u, p):
    """The step of the first fit, and the rates of this and a second one at the same point."""
    tx = scale_by_fitted_rate(every=1, max_change=20.0)
    step, first = tx.update(u, tx.init(p), p, retain_fn=value(hessian, b))
    _, second = tx.update(u, first, p, retain_fn=value(hessian, b))
    return step, first.rate, second.rate


@given(seed=st.integers(0, 2**32 - 1), start=st.floats(-1, 1))
def test_the_rate_is_exact_on_a_quadratic(seed, start):
    hessian, b, p = quadratic(seed)
    gradient = hessian @ p - b
    # Any direction will do, such as one that the forget gradient has turned.
    u = -gradient + 0.3 * np.linalg.norm(gradient) * np.array([1.0, 0, 0, 0])
    best = -(gradient @ u) / (u @ hessian @ u)
    if best <= 0:
        u, best = -u, -best
    u *= best * 10**start
    with jax.enable_x64(True):
        step, first, second = jax.device_get(fit_twice(hessian, b, u, p))
    np.testing.assert_allclose(first, 10**-start, rtol=1e-5)
    np.testing.assert_allclose(step, u * 10**-start, rtol=1e-5)
    # The minimum along u, and a fit with that rate changes nothing.
    assert abs((hessian @ (p + step) - b) @ u) <= 1e-4 * abs(gradient @ u)
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_the_loss_is_evaluated_on_every_third_step_alone():
    calls = []

    def loss(p):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum((p - 1.0) ** 2)

    tx = scale_by_fitted_rate(every=3)
    p, u = jnp.array([3.0, 4.0]), jnp.array([-0.4, -0.6])
    step = jax.jit(lambda state: tx.update(u, state, p, retain_fn=loss)[1])
    state, seen = tx.init(p), []
    for _ in range(7):
        state = step(state)
        jax.effects_barrier()
        seen.append(len(calls))
    assert seen == [3, 3, 3, 6, 6, 6, 9]
    assert state.count == 7


def test_between_fits_the_rate_is_kept_and_applied():
    p, u = jnp.array([3.0, 4.0]), jnp.array([-0.4, -0.6])
    tx = scale_by_fitted_rate(every=2)
    _, state = tx.update(u, tx.init(p), p, retain_fn=lambda p: jnp.sum((p - 1.0) ** 2))
    np.testing.assert_allclose(state.rate, 5.0, rtol=1e-5)
    step, state = tx.update(2 * u, state, p, retain_fn=lambda p: jnp.sum(p**2))
    chex.assert_trees_all_close(step, 10 * u, rtol=1e-5)
    np.testing.assert_allclose(state.rate, 5.0, rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p: -jnp.sum(p**2),  # concave
        lambda p: jnp.sum((p - 100.0) ** 2),  # rises along u
        lambda p: jnp.sum(p),  # straight
        lambda p: 0.0 * jnp.sum(p),  # flat
        lambda p: jnp.sum(p) * jnp.nan,
        lambda p: jnp.where(p[0] > 3.0, jnp.inf, 0.0) + jnp.sum(p**2),
        lambda p: jnp.where(p[0] < 3.0, jnp.inf, 0.0) + jnp.sum(p**2),
    ],
)
def test_without_a_minimum_ahead_the_rate_stays(loss):
    p, u = jnp.array([3.0, 4.0]), jnp.array([-0.4, -0.6])
    assert factors(scale_by_fitted_rate(every=1), u, p, loss, 2) == [1.0, 1.0]


def test_one_fit_changes_the_rate_by_a_bounded_factor():
    p = jnp.array([3.0, 4.0])

    def rates(u):
        return factors(scale_by_fitted_rate(1, 4.0), u, p, lambda p: jnp.sum(p**2), 3)

    np.testing.assert_allclose(rates(-p / 32), [4, 16, 32], rtol=1e-3)
    np.testing.assert_allclose(rates(-p * 32), [1 / 4, 1 / 16, 1 / 32], rtol=1e-3)


def test_it_ends_a_chain_scans_and_keeps_dtypes():
    params = {"b": jnp.full((3,), 2.0, jnp.bfloat16), "f": jnp.full((2,), -1.0)}
    loss = lambda p: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(p))
    tx = optax.chain(optax.sgd(0.1), scale_by_fitted_rate(every=2))

    def body(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p, retain_fn=loss, forget_fn=loss)
        chex.assert_trees_all_equal_dtypes(updates, p)
        return (optax.apply_updates(p, updates), state), loss(p)

    (final, state), losses = jax.lax.scan(body, (params, tx.init(params)), None, length=4)
    chex.assert_trees_all_equal_dtypes(final, params)
    assert losses[-1] < 1e-3 * losses[0]
    assert isinstance(state[1], aggregators.FittedRateState)
    assert state[1].rate.dtype == jnp.float32


def test_bad_numbers_and_missing_parameters_are_named():
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        scale_by_fitted_rate(every=0)
    for bad in (1.0, float("nan")):
        with pytest.raises(ValueError, match=f"max_change must be > 1, got {bad}"):
            scale_by_fitted_rate(max_change=bad)
    tx = scale_by_fitted_rate()
    with pytest.raises(ValueError, match="update\\(\\) needs `params`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), retain_fn=jnp.sum)
