"""Phi, its gradient by the exact formula, and the guards."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax import bilevel as bl
from ofmu_jax.bilevel import quadratics as qd
from tests.bilevel.problems import closures, network

UNCLIPPED = {k: bl.Similarity(k, clip=None) for k in bl.SIMILARITIES}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.0, 0.3, 5.0])
def test_grad_phi_of_quadratics_is_the_closed_form(seed, beta):
    problem = qd.random_quadratic(jax.random.key(seed), 5)
    theta = jax.random.normal(jax.random.key(seed + 100), (5,))
    got, terms = bl.grad_phi(
        problem.forget, problem.retain, theta, beta=beta, similarity=UNCLIPPED["cosine"]
    )
    chex.assert_trees_all_close(got, qd.grad_phi(problem, theta, beta), rtol=1e-9, atol=1e-12)
    g_f, g_r = problem.h_f @ (theta - problem.a), problem.h_r @ (theta - problem.b)
    cos = g_f @ g_r / jnp.linalg.norm(g_f) / jnp.linalg.norm(g_r)
    expected = bl.PhiTerms(
        forget_loss=problem.forget(theta),
        retain_loss=problem.retain(theta),
        cosine=cos,
        forget_norm=jnp.linalg.norm(g_f),
        retain_norm=jnp.linalg.norm(g_r),
        phi=problem.forget(theta) - beta * cos,
        phi_norm=jnp.linalg.norm(got),
    )
    if beta == 0:  # nothing needs the retain gradient
        nan = jnp.nan
        expected = expected._replace(
            phi=problem.forget(theta), retain_loss=nan, cosine=nan, retain_norm=nan
        )
    chex.assert_trees_all_close(terms, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", bl.SIMILARITIES)
def test_grad_phi_of_a_network_is_the_gradient_of_phi(kind):
    params, loss, fb, rb = network()
    losses = list(closures(loss, fb, rb).values())
    got, terms = bl.grad_phi(*losses, params, beta=0.7, similarity=UNCLIPPED[kind])
    phi = bl.phi(*losses, beta=0.7, similarity=UNCLIPPED[kind])
    value, expected = jax.value_and_grad(phi)(params)
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(terms.phi, value, rtol=1e-12)
    # The similarity must matter here, or the check above says nothing about it.
    plain, _ = bl.grad_phi(*losses, params, beta=0.0)
    assert bl.norms(jax.tree.map(lambda a, b: (a - b)[None], got, plain))[0] > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", bl.SIMILARITIES)
def test_several_objectives_average_losses_and_pairwise_similarities(kind):
    params, loss, _, _ = network()
    _, _, b1, b2 = network(1)
    _, _, b3, b4 = network(2)
    _, _, b5, _ = network(3)
    forget = [lambda p, b=b: loss(p, b) for b in (b1, b2)]
    retain = [lambda p, b=b: loss(p, b) for b in (b3, b4, b5)]
    got, terms = bl.grad_phi(forget, retain, params, beta=0.7, similarity=UNCLIPPED[kind])

    def phi(p):
        flat = lambda t: jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)])
        unit = lambda g: g / jnp.linalg.norm(g)
        f = [unit(flat(jax.grad(fn)(p))) for fn in forget]
        r = [unit(flat(jax.grad(fn)(p))) for fn in retain]
        cos = jnp.array([[a @ b for b in r] for a in f])
        psi = cos if kind == "cosine" else cos**2
        return sum(fn(p) for fn in forget) / 2 - 0.7 * psi.mean()

    chex.assert_trees_all_close(got, jax.grad(phi)(params), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(terms.phi, phi(params), rtol=1e-10)

    stacked = lambda *bs: bl.StackedLoss(loss, jax.tree.map(lambda *x: jnp.stack(x), *bs))
    vmapped, _ = bl.grad_phi(
        stacked(b1, b2), stacked(b3, b4, b5), params, beta=0.7, similarity=UNCLIPPED[kind]
    )
    chex.assert_trees_all_close(vmapped, got, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_penalised_objective_of_quadratics():
    problem = qd.random_quadratic(jax.random.key(0), 5)
    theta = jax.random.normal(jax.random.key(1), (5,))
    outer = bl.penalised(problem.forget, problem.retain, beta=0.0, rho=0.3)
    g = problem.h_f @ (theta - problem.a)
    np.testing.assert_allclose(outer(theta), problem.retain(theta) + 0.3 * g @ g, rtol=1e-12)
    # Its stationary point is the penalised minimiser.
    chex.assert_trees_all_close(
        jax.grad(outer)(qd.penalised_minimiser(problem, 0.3)), jnp.zeros(5), atol=1e-10
    )


@jax.jit
def grad_phi_scaled(problem, theta, scale):
    retain = lambda p: scale * problem.retain(p)
    return bl.grad_phi(problem.forget, retain, theta, beta=0.5)[0]


@pytest.mark.usefixtures("x64")
@given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1e3))
def test_scaling_the_retain_loss_does_not_change_grad_phi(seed, scale):
    problem = qd.random_quadratic(jax.random.key(seed), 4)
    theta = jax.random.normal(jax.random.key(seed + 1), (4,))
    one, two = (grad_phi_scaled(problem, theta, s) for s in (1.0, scale))
    chex.assert_trees_all_close(one, two, rtol=1e-8, atol=1e-10)


@jax.jit
def grad_phi_of_several(problems, theta):
    forget, retain = [q.forget for q in problems], [q.retain for q in problems]
    return bl.grad_phi(forget, retain, theta, beta=0.5)[0]


@pytest.mark.usefixtures("x64")
@given(seed=st.integers(0, 2**16), order=st.permutations(range(3)))
def test_permuting_objectives_does_not_change_grad_phi(seed, order):
    problems = [qd.random_quadratic(jax.random.key(seed + i), 4) for i in range(3)]
    theta = jax.random.normal(jax.random.key(seed + 9), (4,))
    ordered, permuted = (
        grad_phi_of_several([problems[i] for i in o], theta) for o in (range(3), order)
    )
    chex.assert_trees_all_close(ordered, permuted, rtol=1e-9, atol=1e-12)


def join(tree):
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


@jax.jit
def grad_phi_of_tree(problem, tree):
    forget, retain = lambda p: problem.forget(join(p)), lambda p: problem.retain(join(p))
    return bl.grad_phi(forget, retain, tree, beta=0.5)


@pytest.mark.usefixtures("x64")
@given(seed=st.integers(0, 2**16), split=st.integers(1, 5), nested=st.booleans())
def test_the_structure_of_the_tree_does_not_matter(seed, split, nested):
    problem = qd.random_quadratic(jax.random.key(seed), 6)
    theta = jax.random.normal(jax.random.key(seed + 1), (6,))
    flat, terms = grad_phi_of_tree(problem, theta)
    head, tail = theta[:split], theta[split:]
    tree = {"a": [head[:, None]], "b": (tail,)} if nested else [head, tail]
    got, tree_terms = grad_phi_of_tree(problem, tree)
    chex.assert_trees_all_equal_structs(got, tree)
    chex.assert_trees_all_close(join(got), flat, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(tree_terms, terms, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 0.0])
def test_near_the_retain_minimum_the_guard_and_the_clip_keep_the_direction_bounded(distance):
    problem = qd.random_quadratic(jax.random.key(0), 5)
    theta = problem.b + distance * jnp.ones(5) / jnp.sqrt(5)
    g_f = problem.h_f @ (theta - problem.a)
    clipped, _ = bl.grad_phi(
        problem.forget, problem.retain, theta, beta=0.5, similarity=bl.Similarity(clip=0.25)
    )
    excess = jnp.linalg.norm(clipped - g_f)
    assert excess <= 0.25 * jnp.linalg.norm(g_f) * (1 + 1e-9)
    free, _ = bl.grad_phi(
        problem.forget, problem.retain, theta, beta=0.5, similarity=UNCLIPPED["cosine"]
    )
    term, free_term = clipped - g_f, free - g_f
    if distance == 1e-3:  # The clip binds here, and only scales.
        assert jnp.linalg.norm(free_term) > 10 * excess
        np.testing.assert_allclose(excess, 0.25 * jnp.linalg.norm(g_f), rtol=1e-9)
        np.testing.assert_allclose(
            term @ free_term, jnp.linalg.norm(term) * jnp.linalg.norm(free_term), rtol=1e-9
        )


def test_vanishing_gradients_give_zero_similarity_and_no_nan():
    zero = lambda p: jnp.sum(p * 0.0)
    linear = lambda p: jnp.sum(p)
    for pair in [(zero, linear), (linear, zero), (zero, zero)]:
        ascent, terms = bl.grad_phi(*pair, jnp.ones(3), beta=1.0)
        chex.assert_tree_all_finite((ascent, terms))
        assert terms.cosine == 0.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "angle"}, "similarity must be one of.*'angle'"),
        ({"hvp": "trajectory"}, "hvp must be one of.*'trajectory'"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"clip": -1.0}, "clip must be positive"),
    ],
)
def test_a_bad_similarity_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        bl.Similarity(**kwargs)
