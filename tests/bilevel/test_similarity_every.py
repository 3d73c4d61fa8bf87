"""The similarity's gradient taken anew at some inner steps alone."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from ofmu_jax import bilevel as bl
from ofmu_jax.scale import count_flops
from tests.bilevel.problems import closures, network

BETA, RATE = 0.3, 0.05


def ascended(every, inner_steps, keep="none", beta=BETA):
    """The displacement of the real loop, its state, and the losses."""
    params, loss, forget, retain = network()
    losses = closures(loss, forget, retain)
    similarity = bl.Similarity(every=every, clip=None)
    tx = bl.maximize_inner(
        optax.sgd(RATE), beta, inner_steps, similarity=similarity, keep_secant=keep
    )
    displacement, state = tx.update(None, tx.init(params), params, **losses)
    return params, losses, displacement, state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("every", "inner_steps"), [(1, 4), (2, 4), (4, 4), (3, 6)])
def test_a_step_in_between_keeps_the_term(every, inner_steps):
    params, losses, displacement, state = ascended(every, inner_steps, "last")
    forget, retain = losses["forget_fn"], losses["retain_fn"]
    phi = bl.phi(forget, retain, 1.0)
    y, path = params, []
    for t in range(inner_steps):
        g = jax.grad(forget)(y)
        if t % every == 0:  # by differentiating Phi = L_f - S, not by the loop's formula
            term = optax.tree.sub(g, jax.grad(phi)(y))
        ascent = jax.tree.map(lambda a, b: a - BETA * b, g, term)
        path.append((y, ascent))
        y = jax.tree.map(lambda a, b: a + RATE * b, y, ascent)
    chex.assert_trees_all_close(displacement, optax.tree.sub(y, params), rtol=1e-7)
    (_, before), (_, last) = path[-2:]
    product = jax.tree.map(lambda a, b: (b - a) / RATE, before, last)
    chex.assert_trees_all_close(state.secant.hvp, product, rtol=1e-6)
    terms = bl.grad_phi(forget, retain, params, beta=BETA, similarity=bl.Similarity(clip=None))[1]
    chex.assert_trees_all_close(state.terms, terms, rtol=1e-7)


def gradients_taken(every, inner_steps, beta=BETA):
    """What a loop costs, in gradients of one loss."""
    params, loss, forget, retain = network(dtype=jnp.float32)
    big = jax.tree.map(lambda x: jnp.tile(x, (64, 1)), (forget, retain))
    losses = closures(loss, *big)
    similarity = bl.Similarity(hvp="finite_difference", every=every)
    tx = bl.maximize_inner(optax.sgd(RATE), beta, inner_steps, similarity=similarity)
    run = lambda p: tx.update(None, tx.init(p), p, **losses)
    return count_flops(run, params) / count_flops(jax.value_and_grad(losses["forget_fn"]), params)


def test_what_the_steps_cost():
    assert gradients_taken(1, 6) == pytest.approx(4 * 6, rel=0.05)
    assert gradients_taken(3, 6) == pytest.approx(4 * 2 + 4, rel=0.05)
    assert gradients_taken(6, 6) == pytest.approx(4 + 5, rel=0.05)
    # Without the term no step takes the retain gradient.
    assert gradients_taken(1, 6, beta=0.0) == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_an_interval_that_is_none_is_refused(every):
    with pytest.raises(ValueError, match="every must be an int >= 1"):
        bl.Similarity(every=every)


@pytest.mark.usefixtures("x64")
def test_an_interval_that_does_not_divide_the_steps_is_refused():
    with pytest.raises(ValueError, match="every is 2; expected a divisor of inner_steps = 5"):
        ascended(2, 5)


@pytest.mark.usefixtures("x64")
def test_the_anchor_s_short_loop_takes_any_interval():
    params, loss, forget, retain = network()
    losses = closures(loss, forget, retain)

    def step(every):
        tx = bl.ofmu(
            optax.sgd(RATE),
            optax.sgd(RATE),
            inner_steps=4,
            variant="anchor",
            penalty="none",
            similarity=bl.Similarity(every=every),
        )
        return tx.update(None, tx.init(params), params, **losses)[0]

    chex.assert_trees_all_close(step(4), step(1), rtol=1e-6)
