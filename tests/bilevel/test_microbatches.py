"""Accumulated losses against those of whole batches."""

import chex
import jax
import jax.numpy as jnp
import pytest

from ofmu_jax import bilevel

KEYS = jax.random.split(jax.random.key(0), 3)
X, Y = jax.random.normal(KEYS[0], (12, 3)), jax.random.normal(KEYS[1], (12,))
PARAMS = {"w": jnp.array([1.0, -0.5, 2.0]), "b": jnp.array(0.1)}
TANGENT = {"w": jnp.array([0.3, 1.0, -1.0]), "b": jnp.array(2.0)}


def residuals(params, batch):
    return jnp.square(jnp.tanh(batch["x"] @ params["w"] + params["b"]) - batch["y"])


def loss(params, batch):
    """The mean over the rows that count."""
    counts = batch["counts"]
    return jnp.sum(residuals(params, batch) * counts) / jnp.maximum(jnp.sum(counts), 1)


def both(counts, microbatches):
    batch = {"x": X, "y": Y, "counts": counts}
    parts = bilevel.split_rows(batch, microbatches)
    weights = jnp.sum(parts["counts"], axis=1)
    return lambda p: loss(p, batch), bilevel.accumulated(loss, parts, weights)


@pytest.mark.parametrize("microbatches", [1, 3, 12])
def test_values_and_derivatives_to_the_third_order_are_those_of_the_whole_batch(x64, microbatches):
    counts = jnp.array([1.0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1])

    def derivatives(f):
        gradient = jax.grad(f)

        def hvp(p):
            return jax.jvp(gradient, (p,), (TANGENT,))[1]

        third = jax.jvp(hvp, (PARAMS,), (TANGENT,))[1]
        return f(PARAMS), gradient(PARAMS), hvp(PARAMS), third

    whole, parts = both(counts, microbatches)
    chex.assert_trees_all_close(
        jax.jit(lambda: derivatives(parts))(), derivatives(whole), rtol=2e-5, atol=1e-6
    )


def test_the_cosine_is_that_of_accumulated_gradients():
    whole, parts = both(jnp.ones(12), 4)
    other = both(jnp.ones(12).at[:6].set(0.0), 4)
    for f in (whole, parts):
        _, terms = bilevel.grad_phi(f, other[0] if f is whole else other[1], PARAMS, beta=0.3)
        expected = jax.grad(whole)(PARAMS), jax.grad(other[0])(PARAMS)
        a, b = (jnp.concatenate([g["w"], g["b"][None]]) for g in expected)
        cosine = a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        chex.assert_trees_all_close(terms.cosine, cosine, rtol=1e-5)


def test_microbatches_that_count_nothing_give_zero():
    value, gradient = jax.value_and_grad(both(jnp.zeros(12), 3)[1])(PARAMS)
    assert value == 0
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, PARAMS))


def test_gradients_of_half_precision_parameters_are_summed_in_single():
    # In bfloat16, 1 + 2^-8 rounds back to 1: a sum of such terms would stay where it is.
    small = jnp.concatenate([jnp.ones(1), jnp.full(255, 2.0**-8)])

    def linear(p, batch):
        return jnp.sum(p.astype(jnp.float32) * batch)

    f = bilevel.accumulated(linear, small[:, None], jnp.ones(256))
    gradient = jax.grad(f)(jnp.ones((), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    chex.assert_trees_all_close(gradient, small.mean(), rtol=1e-2)


def test_it_runs_under_vmap_over_parameters():
    parts = both(jnp.ones(12), 3)[1]
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    gradients = jax.vmap(jax.grad(parts))(stacked)
    for i in range(2):
        one = jax.grad(parts)(jax.tree.map(lambda x, i=i: x[i], stacked))
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], gradients), one, rtol=1e-5)


@pytest.mark.parametrize("rows", [6, 12])
def test_rows_are_dealt_out_in_turn(rows):
    parts = bilevel.split_rows(
        {"a": jnp.arange(rows), "b": jnp.arange(2 * rows).reshape(rows, 2)}, 3
    )
    assert parts["a"].tolist() == [list(range(i, rows, 3)) for i in range(3)]
    assert parts["b"].shape == (3, rows // 3, 2)
