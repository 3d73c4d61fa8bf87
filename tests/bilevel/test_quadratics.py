"""Closed forms: minimisers, fixed points, stability windows, held against the algorithm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel as bl
from ofmu_jax.bilevel import quadratics as qd
from tests.bilevel.problems import run

pytestmark = pytest.mark.usefixtures("x64")

PROBLEM_KEY = jax.random.key(0)
STEP = qd.Step(eta_in=0.02, eta_out=0.3, rho=0.5, inner_steps=5)


def problem(**ranges):
    return qd.random_quadratic(PROBLEM_KEY, 4, **ranges)


def converge(quadratic, step, variant, steps, theta=None):
    """The real transformation on the quadratic, at beta = 0."""
    tx = bl.ofmu(
        inner=optax.sgd(step.eta_in),
        outer=optax.sgd(step.eta_out),
        beta=0.0,
        rho=step.rho,
        inner_steps=step.inner_steps,
        variant=variant,
    )
    start = jnp.ones(4) if theta is None else theta
    return run(tx, start, steps, forget_fn=quadratic.forget, retain_fn=quadratic.retain)


def test_the_penalised_minimiser_minimises_f_and_returns_to_what_was_memorised():
    q = problem()
    rhos = jnp.array([0.0, 0.1, 1.0, 100.0, 1e6])
    minimisers = jax.vmap(lambda rho: qd.penalised_minimiser(q, rho))(rhos)
    chex.assert_trees_all_close(minimisers[0], q.b, atol=1e-9)
    chex.assert_trees_all_close(minimisers[-1], q.a, atol=1e-4)
    distances = jnp.linalg.norm(minimisers - q.a, axis=1)
    assert jnp.all(jnp.diff(distances) < 0)
    for rho, theta in zip(rhos, minimisers, strict=True):
        gradient = jax.grad(bl.penalised(q.forget, q.retain, 0.0, rho))(theta)
        chex.assert_trees_all_close(gradient, jnp.zeros(4), atol=1e-8 * (1 + rho))


def test_the_penalised_minimiser_of_a_singular_forget_hessian():
    q = problem()
    direction = jnp.array([1.0, 2.0, 0.0, -1.0]) / jnp.sqrt(6)
    q = q._replace(h_f=jnp.outer(direction, direction))
    theta = qd.penalised_minimiser(q, 1e8)
    # Along the range of H_f: back to a. Across it: the best for L_r under that constraint.
    np.testing.assert_allclose(direction @ theta, direction @ q.a, atol=1e-6)
    gradient = q.h_r @ (theta - q.b)
    chex.assert_trees_all_close(gradient, direction * (direction @ gradient), atol=1e-6)
    got, _, _ = converge(q, STEP._replace(rho=0.5), "anchor", 2000)
    chex.assert_trees_all_close(got, qd.penalised_minimiser(q, 0.5), atol=1e-9)
    # Both singular along a common direction: still a minimiser, the one of least norm.
    flat = q._replace(h_r=jnp.outer(direction, direction))
    theta = qd.penalised_minimiser(flat, 0.5)
    gradient = jax.grad(bl.penalised(flat.forget, flat.retain, 0.0, 0.5))(theta)
    chex.assert_trees_all_close(gradient, jnp.zeros(4), atol=1e-9)
    chex.assert_trees_all_close(theta, direction * (direction @ theta), atol=1e-9)


@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_one_step_is_the_affine_map(variant):
    q = problem()
    rest = qd.fixed_point(q, STEP, variant)
    start = jnp.array([1.0, -2.0, 0.5, 3.0])
    got, _, _ = converge(q, STEP, variant, 1, start)
    expected = rest + qd.iteration_matrix(q, STEP, variant) @ (start - rest)
    if variant == "lookahead":  # M acts on y - theta_rho; on theta it is conjugated by G.
        g = qd.inner_growth(q, STEP)
        m = jnp.linalg.solve(g, g - STEP.eta_out * g @ qd.penalty_matrix(q, STEP.rho) @ g)
        expected = rest + m @ (start - rest)
    chex.assert_trees_all_close(got, expected, rtol=1e-9)


@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_the_iteration_rests_at_the_fixed_point(variant):
    q = problem()
    got, _, _ = converge(q, STEP, variant, 2000)
    chex.assert_trees_all_close(got, qd.fixed_point(q, STEP, variant), rtol=1e-8)
    chex.assert_trees_all_close(
        qd.fixed_point(q, STEP, "anchor"), qd.penalised_minimiser(q, STEP.rho)
    )


@pytest.mark.parametrize("variant", bl.VARIANTS)
@pytest.mark.parametrize("rho", [0.0, 0.5, 5.0])
def test_both_edges_of_the_stability_window(variant, rho):
    q = problem(retain_range=(0.5, 1.0))
    step = STEP._replace(rho=rho, eta_in=0.01)
    low, high = qd.stability_window(q, step, variant)
    assert low < high
    below, above = (high - low) * jnp.array([-0.02, 0.02]) + low
    etas = jnp.array([below, above, 0.5 * (low + high), 0.99 * high, 1.01 * high])
    radii = jax.vmap(
        lambda eta: qd.spectral_radius(qd.iteration_matrix(q, step._replace(eta_out=eta), variant))
    )(etas)
    assert jnp.all(radii[1:4] < 1), radii
    assert radii[4] > 1, radii
    assert radii[0] > 1, radii  # for the one-sided windows: a negative learning rate
    assert (low > 0) == (variant == "endpoint")

    # The transformation itself: distances to the fixed point shrink inside and grow outside.
    def growth(eta):
        s = step._replace(eta_out=eta)
        rest = qd.fixed_point(q, s, variant)
        theta, _, _ = converge(q, s, variant, 3000, rest + 1e-3)
        return jnp.linalg.norm(theta - rest) / jnp.linalg.norm(jnp.full(4, 1e-3))

    inside = jax.vmap(growth)(etas[1:4])
    assert jnp.all(inside < 0.7), inside
    assert growth(etas[4]) > 10
    assert growth(etas[0]) > 1.1


def test_inner_ascent_on_a_convex_loss_expands_and_on_a_concave_one_contracts():
    convex, concave = problem(), problem(forget_range=(-1.0, -0.1))
    for eta in (1e-3, 0.1, 1.0):
        step = STEP._replace(eta_in=eta)
        assert jnp.linalg.eigvalsh(qd.inner_growth(convex, step))[0] > 1
        assert qd.spectral_radius(qd.inner_growth(concave, step)) < 1
    limit = 2 / 1.0  # 2 / |lambda|_max
    for eta, stable in ((0.99 * limit, True), (1.01 * limit, False)):
        radius = qd.spectral_radius(qd.inner_growth(concave, STEP._replace(eta_in=eta)))
        assert (radius < 1) == stable
        ascend = bl.maximize_inner(optax.sgd(eta), 0.0, 60)
        theta = concave.a + 1.0
        displacement, _ = ascend.update(
            None, ascend.init(theta), theta, forget_fn=concave.forget, retain_fn=concave.retain
        )
        end = theta + displacement - concave.a
        chex.assert_trees_all_close(
            end,
            qd.inner_growth(concave, STEP._replace(eta_in=eta, inner_steps=60)) @ jnp.ones(4),
            rtol=1e-9,
        )


def test_the_curvature_sign_tells_that_the_penalty_opposes_forgetting():
    for ranges, sign in (({}, 1), ({"forget_range": (-1.0, -0.1)}, -1)):
        q = problem(**ranges)
        _, _, diagnostics = converge(q, STEP, "lookahead", 3)
        assert jnp.all(jnp.sign(diagnostics.curvature) == sign)
