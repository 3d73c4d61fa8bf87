"""Per-objective gradients and their Gram matrix."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.experimental import aggregating

from ofmu_jax import bilevel as bl
from tests.bilevel.problems import network


@pytest.mark.usefixtures("x64")
def test_stacked_and_listed_objectives_agree():
    params, loss, b1, b2 = network()
    listed = bl.value_and_gradients([lambda p: loss(p, b1), lambda p: loss(p, b2)], params)
    batches = jax.tree.map(lambda *x: jnp.stack(x), b1, b2)
    stacked = bl.value_and_gradients(bl.StackedLoss(loss, batches), params)
    by_hand = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))(params, batches)
    chex.assert_trees_all_close(listed, stacked, by_hand, rtol=1e-12)
    chex.assert_shape(listed[0], (2,))


@pytest.mark.usefixtures("x64")
def test_gram_matrix_norms_and_cosines():
    grads = {
        "x": jnp.array([[[3.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]]]),
        "y": jnp.array([4.0, 0.0, 0.0]),
    }
    flat = np.array([[3.0, 0, 4], [0, 1, 0], [-1, 0, 0]])
    np.testing.assert_allclose(bl.gram(grads), flat @ flat.T)
    np.testing.assert_allclose(bl.norms(grads), [5.0, 1.0, 1.0])
    np.testing.assert_allclose(bl.norms(grads, eps=12.0)[0], 13.0)
    np.testing.assert_allclose(bl.cosines(grads, grads)[0], [1.0, 0.0, -0.6])


def test_products_of_bfloat16_leaves_accumulate_in_float32():
    ones = {"x": jnp.ones((1, 4096), jnp.bfloat16)}
    assert bl.gram(ones).dtype == jnp.float32
    assert float(bl.gram(ones)[0, 0]) == 4096.0
    assert float(bl.norms(ones)[0]) == 64.0


def test_the_stack_is_what_optax_aggregators_take():
    params, loss, b1, b2 = network(dtype=jnp.float32)
    _, grads = bl.value_and_gradients([lambda p: loss(p, b1), lambda p: loss(p, b2)], params)
    mean = aggregating.average_per_element_updates()
    updates, _ = mean.update(grads, mean.init(params), params)
    expected = jax.grad(lambda p: (loss(p, b1) + loss(p, b2)) / 2)(params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "batches", [{}, jnp.zeros(()), jnp.zeros((0, 2)), [jnp.zeros((2, 1)), jnp.zeros((3, 1))]]
)
def test_stacked_loss_refuses_leaves_without_a_common_objective_axis(batches):
    with pytest.raises(ValueError, match="leading objective axis"):
        bl.StackedLoss(lambda p, b: p, batches)


def deep(p, x):
    """A loss that keeps much more for its backward pass than its parameters and its batch take."""
    return jnp.sum(jax.lax.fori_loop(0, 64, lambda _, y: jnp.tanh(y * p), x))


PARAMS, BATCHES = jnp.linspace(0.5, 1.0, 256), [jnp.full((32, 256), v) for v in (0.3, -0.7)]


def temporaries(function):
    return jax.jit(function).lower(PARAMS).compile().memory_analysis().temp_size_in_bytes


def losses():
    return [lambda p, x=x: deep(p, x) for x in BATCHES]


def test_two_gradients_take_the_memory_of_one():
    def both(p):
        return bl.value_and_gradients(losses(), p)

    def ascent(p, hvp):
        return bl.grad_phi(*losses(), p, beta=0.1, similarity=bl.Similarity(hvp=hvp))[0]

    one = temporaries(jax.value_and_grad(losses()[0]))
    assert one > 64 * BATCHES[0].nbytes
    apart = temporaries(lambda p: [jax.value_and_grad(loss)(p) for loss in losses()])
    assert apart > 1.9 * one  # what there would be without turns
    assert temporaries(both) < 1.1 * one
    for hvp, least in (("finite_difference", 1.1), ("exact", 3)):
        assert temporaries(functools.partial(ascent, hvp=hvp)) < least * one


def test_turns_are_taken_on_cpus_alone():
    traced = jax.jit(lambda p: bl.grad_phi(*losses(), p, beta=0.1)[0]).trace(PARAMS)

    def loops(platform):
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")

    # Those of gradients and of Hessian-vector products, besides the losses' own.
    assert loops("cpu") == loops("tpu") + 2 == loops("cuda") + 2


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_turns_change_no_number(monkeypatch, hvp):
    def ascent(p):
        return bl.grad_phi(*losses(), p, beta=0.1, similarity=bl.Similarity(hvp=hvp))

    found = jax.jit(ascent)(PARAMS)
    alone = lambda *, default, cpu: default()
    monkeypatch.setattr(jax.lax, "platform_dependent", alone)
    jax.clear_caches()
    chex.assert_trees_all_close(found, jax.jit(ascent)(PARAMS), rtol=1e-5, atol=1e-6)


def test_no_objective_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one loss"):
        bl.value_and_gradients([], jnp.zeros(2))
    with pytest.raises(ValueError, match="no leaves"):
        bl.gram({})
