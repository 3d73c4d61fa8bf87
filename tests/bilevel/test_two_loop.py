"""The transformation `ofmu`, step by step against the algorithm written out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel as bl
from ofmu_jax.bilevel import quadratics as qd
from ofmu_jax.scale import count_flops
from tests.bilevel.problems import closures, network, run

BETA, RHO, ETA_IN, ETA_OUT = 0.4, 0.05, 0.02, 0.1
SIM = bl.Similarity(clip=None)


def make(**kwargs):
    defaults = {
        "inner": optax.sgd(ETA_IN),
        "outer": optax.sgd(ETA_OUT),
        "beta": BETA,
        "rho": RHO,
        "inner_steps": 3,
        "similarity": SIM,
    }
    return bl.ofmu(**(defaults | kwargs))


def reference(problem, theta, variant, steps=3, rho=RHO, penalty="stationarity"):
    """One outer iteration of the paper's algorithm on a quadratic, term by term."""
    y = theta
    for _ in range(steps):
        y = y + ETA_IN * qd.grad_phi(problem, y, BETA)
    x = theta if variant == "anchor" else y
    gradient = problem.h_r @ (x - problem.b)
    ascent = qd.grad_phi(problem, x, BETA)
    if penalty == "stationarity":
        gradient = gradient + 2 * rho * qd.hess_phi_product(problem, x, BETA, ascent)
    elif penalty == "value_gap":
        gradient = gradient - rho * ascent
    base = y if variant == "endpoint" else theta
    return base - ETA_OUT * gradient


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", bl.VARIANTS)
@pytest.mark.parametrize("penalty", bl.PENALTIES)
def test_one_step_is_the_paper_s(variant, penalty):
    problem = qd.random_quadratic(jax.random.key(0), 6)
    theta = jax.random.normal(jax.random.key(1), (6,))
    tx = make(variant=variant, penalty=penalty)
    updates, state = jax.jit(
        lambda p: tx.update(None, tx.init(p), p, forget_fn=problem.forget, retain_fn=problem.retain)
    )(theta)
    expected = reference(problem, theta, variant, penalty=penalty)
    chex.assert_trees_all_close(theta + updates, expected, rtol=1e-9, atol=1e-11)
    assert state.penalty.count == 1
    if penalty == "stationarity":
        x = theta
        for _ in range(0 if variant == "anchor" else 3):
            x = x + ETA_IN * qd.grad_phi(problem, x, BETA)
        g = qd.grad_phi(problem, x, BETA)
        s = g @ qd.hess_phi_product(problem, x, BETA, g) / (g @ g)
        np.testing.assert_allclose(state.diagnostics.curvature, s, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_gated_penalty_is_there_only_where_it_does_not_oppose_forgetting(sign):
    problem = qd.random_quadratic(jax.random.key(0), 6)
    problem = problem._replace(h_f=sign * problem.h_f)
    theta = jax.random.normal(jax.random.key(1), (6,))
    tx = make(penalty="gated")
    updates, state = tx.update(
        None, tx.init(theta), theta, forget_fn=problem.forget, retain_fn=problem.retain
    )
    assert jnp.sign(state.diagnostics.curvature) == sign
    counted = "none" if sign > 0 else "stationarity"
    expected, other = (
        reference(problem, theta, "endpoint", penalty=penalty)
        for penalty in (counted, "none" if counted != "none" else "stationarity")
    )
    chex.assert_trees_all_close(theta + updates, expected, rtol=1e-9, atol=1e-11)
    assert jnp.abs(expected - other).max() > 1e-4
    np.testing.assert_allclose(state.diagnostics.rho, RHO if sign < 0 else 0.0, rtol=1e-6)


def test_diagnostics_are_the_terms_at_theta():
    problem = qd.random_quadratic(jax.random.key(0), 6)
    theta = jax.random.normal(jax.random.key(1), (6,))
    tx = make(rho=bl.geometric(RHO, growth=2.0))
    losses = {"forget_fn": problem.forget, "retain_fn": problem.retain}
    updates, state = tx.update(None, tx.init(theta), theta, **losses)
    _, terms = bl.grad_phi(*losses.values(), theta, beta=BETA, similarity=SIM)
    for name in ("forget_loss", "retain_loss", "cosine", "forget_norm", "retain_norm", "phi_norm"):
        np.testing.assert_allclose(getattr(state.diagnostics, name), getattr(terms, name))
    np.testing.assert_allclose(state.diagnostics.rho, RHO)
    _, state = tx.update(None, state, theta + updates, **losses)
    np.testing.assert_allclose(state.diagnostics.rho, 2 * RHO)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_without_a_similarity_a_step_costs_one_gradient_of_either_loss(variant):
    params, loss, forget, retain = network()
    big = jax.tree.map(lambda x: jnp.tile(x, (64, 1)), (forget, retain))
    losses = closures(loss, *big)
    tx = make(beta=0.0, inner_steps=1, penalty="none", variant=variant)
    update = lambda p: tx.update(None, tx.init(p), p, **losses)
    gradient = jax.value_and_grad(losses["forget_fn"])
    assert count_flops(update, params) / count_flops(gradient, params) == pytest.approx(2, rel=0.05)
    _, state = update(params)
    shown = state.diagnostics
    x = params
    if variant != "anchor":
        x = jax.tree.map(lambda p, g: p + ETA_IN * g, params, jax.grad(losses["forget_fn"])(params))
    value, at_x = jax.value_and_grad(losses["retain_fn"])(x)
    np.testing.assert_allclose(shown.retain_loss, value, rtol=1e-12)
    np.testing.assert_allclose(shown.retain_norm, optax.tree.norm(at_x), rtol=1e-12)
    np.testing.assert_allclose(shown.forget_loss, gradient(params)[0], rtol=1e-12)
    assert jnp.isnan(shown.cosine)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_the_trajectory_step_tends_to_the_exact_one(variant):
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    gaps = []
    for eta in (1e-2, 1e-3):
        step = {}
        for hvp in ("exact", "trajectory"):
            tx = make(inner=optax.sgd(eta), hvp=hvp, variant=variant, rho=1.0)
            step[hvp], _ = tx.update(None, tx.init(params), params, **losses)
        gaps.append(float(optax.tree.norm(optax.tree.sub(step["exact"], step["trajectory"]))))
    assert 8 < gaps[0] / gaps[1] < 12, gaps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("penalty", ["value_gap", "none"])
def test_curvature_is_measured_along_the_path_without_a_stationarity_penalty(penalty):
    problem = qd.random_quadratic(jax.random.key(0), 6)
    theta = jax.random.normal(jax.random.key(1), (6,))
    losses = {"forget_fn": problem.forget, "retain_fn": problem.retain}
    tx = make(beta=0.0, penalty=penalty)
    _, state = tx.update(None, tx.init(theta), theta, **losses)
    d = problem.h_f @ (theta + ETA_IN * problem.h_f @ (theta - problem.a) - problem.a)
    np.testing.assert_allclose(
        state.diagnostics.curvature, d @ problem.h_f @ d / (d @ d), rtol=1e-9
    )
    tx = make(beta=0.0, penalty=penalty, inner_steps=1)
    _, state = tx.update(None, tx.init(theta), theta, **losses)
    assert jnp.isnan(state.diagnostics.curvature)


@pytest.mark.usefixtures("x64")
def test_ofmu_is_the_composition_of_its_parts():
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    ascend = bl.maximize_inner(optax.adam(1e-2), BETA, 3, similarity=SIM)
    penalise = bl.add_stationarity_penalty(RHO, beta=BETA, similarity=SIM)
    outer = optax.adamw(1e-2)
    displacement, _ = ascend.update(None, ascend.init(params), params, **losses)
    y = optax.apply_updates(params, displacement)
    gradient = jax.grad(losses["retain_fn"])(y)
    gradient, _ = penalise.update(gradient, penalise.init(y), y, **losses)
    step, _ = outer.update(gradient, outer.init(params), y)
    tx = make(inner=optax.adam(1e-2), outer=outer)
    updates, _ = tx.update(None, tx.init(params), params, **losses)
    chex.assert_trees_all_close(
        optax.apply_updates(params, updates), optax.apply_updates(y, step), rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_incoming_updates_count_as_a_gradient():
    problem = qd.random_quadratic(jax.random.key(0), 6)
    theta = jax.random.normal(jax.random.key(1), (6,))
    losses = {"forget_fn": problem.forget, "retain_fn": problem.retain}
    tx = make()
    without, _ = tx.update(None, tx.init(theta), theta, **losses)
    with_extra, _ = tx.update(jnp.ones(6), tx.init(theta), theta, **losses)
    chex.assert_trees_all_close(with_extra - without, -ETA_OUT * jnp.ones(6), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_several_requests_and_domains():
    params, loss, b1, b2 = network()
    _, _, b3, _ = network(1)
    forget = [lambda p: loss(p, b1), lambda p: loss(p, b3)]
    tx = make(rho=0.0)
    updates, state = tx.update(
        None, tx.init(params), params, forget_fn=forget, retain_fn=lambda p: loss(p, b2)
    )
    mean = (forget[0](params) + forget[1](params)) / 2
    np.testing.assert_allclose(state.diagnostics.forget_loss, mean)
    swapped, _ = tx.update(
        None, tx.init(params), params, forget_fn=forget[::-1], retain_fn=lambda p: loss(p, b2)
    )
    chex.assert_trees_all_close(updates, swapped, rtol=1e-9)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_is_not_applied_but_counted(bad):
    problem = qd.random_quadratic(jax.random.key(0), 4)
    theta = jnp.ones(4)
    tx = make(outer=optax.adam(ETA_OUT), inner=optax.sgd(ETA_IN, momentum=0.9))
    good = {"forget_fn": problem.forget, "retain_fn": problem.retain}
    poisoned = good | {"retain_fn": lambda p: bad * jnp.sum(p)}
    update = jax.jit(
        lambda s, p, poison: jax.lax.cond(
            poison,
            lambda: tx.update(None, s, p, **poisoned),
            lambda: tx.update(None, s, p, **good),
        )
    )
    _, before = update(tx.init(theta), theta, False)
    updates, state = update(before, theta, True)
    chex.assert_trees_all_equal(updates, jnp.zeros(4))
    kept = ("inner", "penalty", "outer")
    chex.assert_trees_all_equal(
        [getattr(state, k) for k in kept], [getattr(before, k) for k in kept]
    )
    assert (state.notfinite_count, state.total_notfinite) == (1, 1)
    assert not jnp.isfinite(state.diagnostics.retain_loss)
    _, state = update(state, theta, True)
    assert (state.notfinite_count, state.total_notfinite) == (2, 2)
    updates, state = update(state, theta, False)
    assert (state.notfinite_count, state.total_notfinite) == (0, 2)
    assert jnp.all(updates != 0)


def test_a_geometric_rho_with_a_fixed_learning_rate_diverges_without_ever_giving_nan():
    problem = qd.random_quadratic(jax.random.key(0), 4)
    tx = make(variant="anchor", beta=0.0, rho=bl.geometric(1.0, growth=3.0), inner_steps=1)
    losses = {"forget_fn": problem.forget, "retain_fn": problem.retain}
    params, state, _ = run(tx, jnp.ones(4), 200, **losses)
    chex.assert_tree_all_finite(params)
    assert state.total_notfinite > 0
    rho = bl.geometric(1.0, growth=3.0, cap=1e4)
    coupled = bl.couple_to_rho(0.5, rho, curvature_ratio=1.0)
    tx = make(variant="anchor", beta=0.0, rho=rho, outer=optax.sgd(coupled))
    params, state, _ = run(tx, jnp.ones(4), 4000, **losses)
    assert state.total_notfinite == 0
    chex.assert_trees_all_close(params, problem.a, atol=1e-2)  # rho large: back to a


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"variant": "middle"}, "variant must be one of.*'middle'"),
        ({"penalty": "l2"}, "penalty must be one of.*'l2'"),
        ({"hvp": "magic"}, "hvp must be one of.*'magic'"),
        ({"similarity": "dot"}, "similarity must be one of.*'dot'"),
        ({"beta": -0.1}, "beta must be a number >= 0, got -0.1"),
        ({"beta": float("nan")}, "beta must be a number >= 0, got nan"),
        ({"rho": -1.0}, "rho must be a number >= 0, got -1.0"),
        ({"rho": float("inf")}, "rho must be a number >= 0, got inf"),
        ({"inner_steps": 0}, "inner_steps must be >= 1, got 0"),
        ({"inner_steps": 2.0}, "inner_steps must be a Python int, got float"),
        ({"inner_steps": 1, "hvp": "trajectory"}, "inner_steps must be >= 2, got 1"),
    ],
)
def test_bad_hyperparameters_are_refused_before_any_compute(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_missing_pieces_are_named():
    tx = make()
    losses = {"forget_fn": jnp.sum, "retain_fn": jnp.sum}
    with pytest.raises(ValueError, match="ofmu evaluates losses.*`params`"):
        tx.update(None, tx.init(jnp.ones(2)), None, **losses)
    with pytest.raises(TypeError, match="retain_fn"):
        tx.update(None, tx.init(jnp.ones(2)), jnp.ones(2), forget_fn=jnp.sum)
    penalty = bl.add_stationarity_penalty(0.1, "trajectory")
    with pytest.raises(ValueError, match="needs the extra argument `secant`"):
        penalty.update(jnp.ones(2), penalty.init(jnp.ones(2)), jnp.ones(2), **losses)
