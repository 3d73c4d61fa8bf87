"""Per-objective gradients and their Gram matrix."""

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


def test_no_objective_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one loss"):
        bl.value_and_gradients([], jnp.zeros(2))
    with pytest.raises(ValueError, match="no leaves"):
        bl.gram({})
