"""The convergence rates the paper claims, measured.

Claimed: convex O(1/K) + O(K/T^2), non-convex O(1/K) + O(1/T) + O(sigma^2). What is measured is
each term on a family where it is attained or nearly so, as the slope of a log-log fit: in K, the
outer gap F(theta_K) - F*; in T, the squared stationarity |grad Phi(y_T)|^2 of the inner
maximisation, the error that every one of the K outer steps adds; without convexity, the running
minimum of |grad F|^2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel as bl
from ofmu_jax.bilevel import quadratics as qd
from tests.bilevel.problems import closures, network, run

pytestmark = pytest.mark.usefixtures("x64")


def slope(x, y):
    return np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0]


def flat_spectrum(dim, power, sign=1.0):
    """Eigenvalues down to 1e-8, so that no rate but a sublinear one shows in the measured range.

    The start's distance along eigenvalue lambda is lambda^power: the slower directions weigh such
    that a gap sum lambda d^2 (1 - eta lambda)^2K decays like K^-(1 + 2 power).
    """
    eigenvalues = jnp.logspace(-8, 0, dim)
    return sign * jnp.diag(eigenvalues), eigenvalues**power


def test_convex_gap_against_the_number_of_outer_steps():
    h_r, distance = flat_spectrum(400, power=0.0)
    q = qd.Quadratic(h_f=h_r, h_r=h_r, a=jnp.zeros(400), b=jnp.zeros(400))
    # rho adds 2 rho H^2 to the curvature: with a = b = 0 the minimum of F is 0 at 0.
    step = qd.Step(eta_in=0.0, eta_out=0.5, rho=0.1, inner_steps=1)
    tx = bl.ofmu(
        optax.sgd(step.eta_in), optax.sgd(step.eta_out), 0.0, step.rho, 1, variant="anchor"
    )
    objective = bl.penalised(q.forget, q.retain, 0.0, step.rho)

    def body(carry, _):
        theta, state = carry
        updates, state = tx.update(None, state, theta, forget_fn=q.forget, retain_fn=q.retain)
        return (theta + updates, state), objective(theta)

    _, gaps = jax.lax.scan(body, (distance, tx.init(distance)), None, length=2000)
    ks = np.array([30, 100, 300, 1000, 1999])
    assert -1.1 < slope(ks, gaps[ks]) < -0.9, slope(ks, gaps[ks])
    # And the constant: gradient descent's bound |theta_0 - theta*|^2 / (2 eta K).
    assert np.all(gaps[ks] <= distance @ distance / (2 * step.eta_out * ks))


def test_convex_inner_error_against_the_number_of_inner_steps():
    h_f, distance = flat_spectrum(400, power=0.0, sign=-1.0)
    q = qd.Quadratic(h_f=h_f, h_r=-h_f, a=jnp.zeros(400), b=jnp.ones(400))
    ts = np.array([10, 30, 100, 300, 1000])
    errors = []
    for t in ts:
        ascend = bl.maximize_inner(optax.sgd(0.5), 0.0, int(t))
        d, _ = ascend.update(
            None, ascend.init(distance), distance, forget_fn=q.forget, retain_fn=q.retain
        )
        errors.append(jnp.sum(jnp.square(q.h_f @ (distance + d))))
    assert -2.1 < slope(ts, errors) < -1.9, slope(ts, errors)


@pytest.mark.parametrize("variant", ["anchor", "lookahead"])
def test_non_convex_gradient_of_the_penalised_objective(variant):
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    # A forget loss that is bounded above, log(1 - p) with p = exp(-CE): its maximiser exists.
    losses["forget_fn"] = lambda p: jnp.log(1 - jnp.exp(-loss(p, fb)))
    rho, beta = 0.1, 0.0
    tx = bl.ofmu(optax.sgd(1e-4), optax.sgd(0.05), beta, rho, inner_steps=2, variant=variant)
    gradient = jax.grad(bl.penalised(*losses.values(), beta, rho))

    def body(carry, _):
        theta, state = carry
        updates, state = tx.update(None, state, theta, **losses)
        size = optax.tree.norm(gradient(theta), squared=True)
        return (optax.apply_updates(theta, updates), state), size

    _, sizes = jax.lax.scan(body, (params, tx.init(params)), None, length=3000)
    best = np.minimum.accumulate(np.asarray(sizes))
    ks = np.array([30, 100, 300, 1000, 2999])
    assert slope(ks, best[ks]) < -0.9, slope(ks, best[ks])
    # The O(1/K) bound with the descent lemma's constant, f = F(theta_0) - inf F <= F(theta_0).
    start = bl.penalised(*losses.values(), beta, rho)(params)
    assert np.all(best[ks] <= 2 * start / (0.05 * ks))


def test_the_non_convex_error_floor_falls_with_the_inner_displacement():
    """`lookahead` rests where the gradient of F vanishes at y_T, so theta is off by about eta T."""
    params, loss, fb, rb = network()
    losses = closures(loss, fb, rb)
    losses["forget_fn"] = lambda p: jnp.log(1 - jnp.exp(-loss(p, fb)))
    # Weight decay gives F a minimum that is reached within the test, so that the floor shows.
    losses["retain_fn"] = lambda p: loss(p, rb) + 0.05 * optax.tree.norm(p, squared=True)
    gradient = jax.grad(bl.penalised(*losses.values(), 0.0, 0.1))
    floors = []
    for eta, inner_steps in ((1e-2, 4), (1e-2, 1), (1e-3, 4)):
        tx = bl.ofmu(optax.sgd(eta), optax.sgd(0.1), 0.0, 0.1, inner_steps, variant="lookahead")
        theta, _, _ = run(tx, params, 4000, **losses)
        floors.append(float(optax.tree.norm(gradient(theta))))
    assert 3.5 < floors[0] / floors[1] < 4.5, floors
    assert 8 < floors[0] / floors[2] < 12, floors
