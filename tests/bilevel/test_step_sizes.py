"""The step size fitted to a loss whose least value is known."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel as bl


def taken(optimizer, grads, value, minimum=0.0, params=None):
    tx = bl.polyak_bounded(optimizer, minimum)
    params = jax.tree.map(jnp.zeros_like, grads) if params is None else params
    return tx.update(grads, tx.init(params), params, value=value)[0]


@pytest.mark.parametrize("minimum", [0.0, -3.0])
def test_a_quadratic_is_solved_in_one_step_along_its_gradient(minimum):
    # Of f = minimum + c/2 |x - a|^2 the parabola along the gradient is f itself.
    a, x, c = jnp.array([1.0, -2.0]), {"x": jnp.array([4.0, 5.0])}, 0.7

    def f(p):
        return minimum + 0.5 * c * jnp.sum((p["x"] - a) ** 2)

    value, grads = jax.value_and_grad(f)(x)
    step = taken(optax.sgd(100.0), grads, value, minimum, x)
    chex.assert_trees_all_close(optax.apply_updates(x, step), {"x": a}, rtol=1e-5)


def test_a_preconditioned_step_ends_at_the_least_value_along_it():
    h = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    x = jnp.array([1.0, -2.0])
    grads = h @ x
    # Along Newton's direction the quadratic's least value is its minimum.
    newton = optax.stateless(lambda g, _: -10 * jnp.linalg.solve(h, g))
    step = taken(newton, grads, 0.5 * x @ h @ x, params=x)
    np.testing.assert_allclose(x + step, 0, atol=1e-5)


@hypothesis.given(
    grads=st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3),
    value=st.floats(-5, 50, width=32),
    rate=st.floats(1e-3, 100.0),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_step_is_the_optimizers_or_as_far_as_the_parabola(grads, value, rate):
    g = np.array(grads, np.float32)
    own = -np.float32(rate) * g
    fall, left = float(np.sum(g.astype(np.float64) ** 2) * rate), 2 * max(value, 0.0)
    part = 1.0 if fall <= left else left / fall
    step = taken(optax.sgd(rate), jnp.array(g), value)
    np.testing.assert_allclose(step, part * own, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_to_do_at_the_minimum_whatever_the_learning_rate():
    g = jnp.array([1.0, -1.0])
    for value in (0.0, -1.0):
        np.testing.assert_array_equal(taken(optax.sgd(1e6), g, value), 0)


def test_a_step_that_leads_uphill_is_the_optimizers_own():
    uphill = optax.stateless(lambda g, _: g)
    g = jnp.array([1.0, -1.0])
    np.testing.assert_array_equal(taken(uphill, g, 0.1), g)


def test_low_precision_keeps_its_dtype_and_large_trees_their_sums():
    grads = {"a": jnp.ones(4096, jnp.bfloat16), "b": {"c": jnp.ones(2, jnp.float32)}}
    step = taken(optax.sgd(1.0), grads, 4098 / 4)
    chex.assert_trees_all_equal_dtypes(step, grads)
    # A sum in bfloat16 would stop at 256.
    chex.assert_trees_all_close(
        step, jax.tree.map(lambda g: (-0.5 * g).astype(g.dtype), grads), rtol=1e-2
    )


@pytest.mark.parametrize("every", [1, 2])
def test_the_inner_loop_tells_its_optimizer_the_loss_that_it_descends(every):
    def forget(p):
        return -0.5 * jnp.sum((p - 1.0) ** 2)

    def retain(p):
        return jnp.sum(p**4)

    def recording():
        # Hands -Phi on as the update, so that it shows in the displacement.
        def update(updates, state, params=None, *, value, **extra):
            return jnp.full_like(updates, value), state

        return optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)

    similarity = bl.Similarity(every=every)
    loop = bl.maximize_inner(recording(), 0.3, 2, similarity=similarity)
    x = jnp.array([0.5, -0.5])
    shift, _ = loop.update(None, loop.init(x), x, forget_fn=forget, retain_fn=retain)
    phi = bl.phi(forget, retain, 0.3)

    first = -phi(x)
    y = x + first
    # With every = 2 the similarity is that of the first step.
    second = -phi(y) if every == 1 else -(forget(y) + phi(x) - forget(x))
    np.testing.assert_allclose(shift, first + second, rtol=1e-5)


def test_an_inner_step_on_a_known_optimum_needs_no_learning_rate():
    # M = 1/2 (p - 3)^2 summed; its optimum is known to be 0, and any bound will do.
    found = []
    for bound in (1e2, 1e4):
        tx = bl.ofmu(
            inner=bl.polyak_bounded(optax.sgd(bound)),
            outer=optax.sgd(0.0),
            beta=0.0,
            inner_steps=1,
            penalty="none",
        )
        x = jnp.array([1.0, -1.0])
        step, _ = jax.jit(
            lambda x, tx=tx: tx.update(
                None,
                tx.init(x),
                x,
                forget_fn=lambda p: -0.5 * jnp.sum((p - 3.0) ** 2),
                retain_fn=lambda p: jnp.sum(p**2),
            )
        )(x)
        found.append(x + step)
    np.testing.assert_allclose(found, 3.0, rtol=1e-5)
