"""Hessian-vector products by all three modes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel as bl
from ofmu_jax.bilevel import quadratics as qd
from tests.bilevel.problems import closures, network


def distance(a, b):
    """Relative Euclidean distance of two trees."""
    return float(optax.tree.norm(optax.tree.sub(a, b)) / optax.tree.norm(b))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(3))
def test_exact_hess_phi_product_of_quadratics_is_the_closed_form(seed):
    problem = qd.random_quadratic(jax.random.key(seed), 5)
    theta, w = jax.random.normal(jax.random.key(seed + 50), (2, 5))

    def field(p):
        return bl.grad_phi(
            problem.forget, problem.retain, p, beta=0.8, similarity=bl.Similarity(clip=None)
        )[0]

    got = bl.directional_derivative(field, theta, w)
    chex.assert_trees_all_close(
        got, qd.hess_phi_product(problem, theta, 0.8, w), rtol=1e-9, atol=1e-10
    )
    near = bl.directional_derivative(field, theta, w, mode="finite_difference")
    assert 0 < distance(near, got) < 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_the_penalty_is_the_gradient_of_rho_times_the_squared_norm(hvp):
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    sim = bl.Similarity(clip=None)
    tx = bl.add_stationarity_penalty(0.3, hvp, beta=0.6, similarity=sim)
    zero = optax.tree.zeros_like(params)
    got, state = tx.update(zero, tx.init(params), params, **losses)
    phi = bl.phi(*losses.values(), beta=0.6, similarity=sim)
    expected = jax.grad(lambda p: 0.3 * optax.tree.norm(jax.grad(phi)(p), squared=True))(params)
    assert distance(got, expected) < (1e-9 if hvp == "exact" else 1e-4)
    g = jax.grad(phi)(params)
    s = optax.tree.vdot(g, jax.jvp(jax.grad(phi), (params,), (g,))[1]) / optax.tree.vdot(g, g)
    np.testing.assert_allclose(state.curvature, s, rtol=1e-9 if hvp == "exact" else 1e-3)


@pytest.mark.usefixtures("x64")
def test_the_trajectory_product_converges_to_the_exact_one_at_first_order():
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    etas = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    exact = bl.add_stationarity_penalty(0.5, beta=0.5)  # 2 rho = 1
    product, exact_state = exact.update(
        optax.tree.zeros_like(params), exact.init(params), params, **losses
    )
    errors, curvature_errors = [], []
    for eta in etas:
        ascend = bl.maximize_inner(optax.sgd(eta), 0.5, 2, keep_secant="first")
        _, state = ascend.update(None, ascend.init(params), params, **losses)
        errors.append(distance(state.secant.hvp, product))
        curvature_errors.append(abs(state.secant.curvature - exact_state.curvature))
    slope = np.polyfit(np.log(etas), np.log(errors), 1)[0]
    assert 0.95 < slope < 1.05, (slope, errors)
    assert curvature_errors[-1] < 1e-3 * curvature_errors[0] * 2
    assert errors[-1] < 1e-4


@pytest.mark.usefixtures("x64")
def test_the_first_and_the_last_pair_of_iterates_are_told_apart():
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)

    def kept(which, start, steps):
        ascend = bl.maximize_inner(optax.sgd(0.05), 0.5, steps, keep_secant=which)
        displacement, state = ascend.update(None, ascend.init(start), start, **losses)
        return state.secant, optax.apply_updates(start, displacement)

    first, _ = kept("first", params, 4)
    chex.assert_trees_all_close(first, kept("first", params, 2)[0], rtol=1e-9)
    _, middle = kept("first", params, 2)
    last, _ = kept("last", params, 4)
    chex.assert_trees_all_close(last, kept("first", middle, 2)[0], rtol=1e-9)
    assert distance(first.hvp, last.hvp) > 1e-3


@pytest.mark.usefixtures("x64")
def test_the_secant_needs_no_knowledge_of_the_inner_optimiser():
    # On a quadratic, the difference of gradients is exactly H d, whatever made the step d.
    problem = qd.random_quadratic(jax.random.key(3), 4)
    theta = jnp.ones(4)
    g = problem.h_f @ (theta - problem.a)
    d = 0.03 * jnp.sign(g)
    got = bl.secant(g, d, problem.h_f @ (theta + d - problem.a))
    chex.assert_trees_all_close(got.hvp, problem.h_f @ d * (d @ g) / (d @ d), rtol=1e-9)
    np.testing.assert_allclose(got.curvature, g @ got.hvp / (g @ g), rtol=1e-9)


@pytest.mark.parametrize("diagonal", [(1.0, -5.0), (-1.0, 5.0)])
def test_the_sign_is_that_of_the_term_that_is_added(diagonal):
    # Along Adam's first step, which goes by signs, the curvature has the other sign.
    h, g = jnp.diag(jnp.array(diagonal)), jnp.array([10.0, 1.0])
    d = 0.1 * jnp.sign(g)
    secant = bl.secant(g, d, g + h @ d)
    assert jnp.sign(d @ h @ d) == -jnp.sign(g @ h @ g)
    assert jnp.sign(secant.curvature) == jnp.sign(g @ secant.hvp) == jnp.sign(g @ h @ g)
    penalty = bl.add_stationarity_penalty(0.1, "trajectory", gated=True)
    losses = {"forget_fn": jnp.sum, "retain_fn": jnp.sum}
    added, state = penalty.update(
        jnp.zeros(2), penalty.init(d), jnp.zeros(2), secant=secant, **losses
    )
    # A step against what is added moves along the ascent of Phi, or there is none.
    assert g @ added <= 0 and (state.rho > 0) == (g @ h @ g < 0)


def test_a_secant_of_no_displacement_is_zero_not_nan():
    zero = jnp.zeros(3)
    got = bl.secant(jnp.ones(3), zero, jnp.ones(3))
    chex.assert_trees_all_equal(got, bl.Secant(zero, jnp.zeros(())))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_finite_differences_are_safe_in_float32_whatever_the_size_of_the_tangent(scale):
    params, loss, fb, _ = network(dtype=jnp.float32)
    gradient = jax.grad(lambda p: loss(p, fb))
    tangent = optax.tree.scale(scale, gradient(params))
    exact = bl.directional_derivative(gradient, params, tangent)
    near = bl.directional_derivative(gradient, params, tangent, mode="finite_difference")
    assert distance(near, exact) < 2e-3


def test_finite_difference_grad_phi_in_float32():
    params, loss, fb, rb = network(dtype=jnp.float32)
    losses = list(closures(loss, fb, rb).values())
    grads = {
        hvp: bl.grad_phi(*losses, params, beta=0.5, similarity=bl.Similarity(hvp=hvp))[0]
        for hvp in ("exact", "finite_difference")
    }
    assert distance(grads["finite_difference"], grads["exact"]) < 2e-3


def test_finite_difference_of_a_finite_difference_in_float32():
    params, loss, fb, rb = network(dtype=jnp.float32)
    losses = closures(loss, fb, rb)
    zero = optax.tree.zeros_like(params)
    products = {}
    for hvp in ("exact", "finite_difference"):
        tx = bl.add_stationarity_penalty(0.5, hvp, beta=0.5, similarity=bl.Similarity(hvp=hvp))
        products[hvp], _ = tx.update(zero, tx.init(params), params, **losses)
    assert distance(products["finite_difference"], products["exact"]) < 5e-2


def test_a_zero_tangent_gives_zero():
    field = jax.grad(lambda p: jnp.sum(p**3))
    for mode in ("exact", "finite_difference"):
        got = bl.directional_derivative(field, jnp.ones(3), jnp.zeros(3), mode=mode)
        chex.assert_trees_all_equal(got, jnp.zeros(3))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode must be one of.*'forward'"):
        bl.directional_derivative(jax.grad(jnp.sum), jnp.ones(3), jnp.ones(3), mode="forward")
    with pytest.raises(ValueError, match="hvp must be one of.*'forward'"):
        bl.add_stationarity_penalty(0.1, "forward")
