"""Quadratic problems whose every quantity is known in closed form.

    L_f(theta) = 1/2 (theta - a)' H_f (theta - a),   L_r(theta) = 1/2 (theta - b)' H_r (theta - b).

With plain gradient steps, beta = 0 and fixed eta_in, eta_out, rho, one step of the two-loop
algorithm is an affine map theta -> M theta + m; its fixed point and its spectral radius say where
each variant ends and whether it gets there. With

    P = H_r + 2 rho H_f^2,   G = (I + eta_in H_f)^T,   theta_rho = P^-1 (H_r b + 2 rho H_f^2 a):

| variant   | M                 | fixed point                        | stable iff              |
|-----------|-------------------|------------------------------------|-------------------------|
| anchor    | I - eta_out P     | theta_rho                          | eta_out < 2 / lmax(P)   |
| lookahead | I - eta_out P G   | a + G^-1 (theta_rho - a)           | eta_out < 2 / lmax(P G) |
| endpoint  | (I - eta_out P) G | a + (I - M)^-1 eta_out H_r (b - a) | a two-sided window      |

Plain functions of arrays, so parameter sweeps are `jax.vmap`. H_f and H_r are symmetric; H_f may
be indefinite or singular.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ofmu_jax.bilevel.gradients import LossFn


class Quadratic(NamedTuple):
    """A forget and a retain quadratic in d dimensions.

    Attributes:
      h_f: Hessian of the forget loss, shape (d, d), symmetric.
      h_r: Hessian of the retain loss, shape (d, d), symmetric positive semi-definite.
      a: stationary point of the forget loss, shape (d,): what was memorised.
      b: minimiser of the retain loss, shape (d,).
    """

    h_f: jax.Array
    h_r: jax.Array
    a: jax.Array
    b: jax.Array

    @property
    def forget(self) -> LossFn:
        """L_f."""
        return lambda theta: 0.5 * (theta - self.a) @ self.h_f @ (theta - self.a)

    @property
    def retain(self) -> LossFn:
        """L_r."""
        return lambda theta: 0.5 * (theta - self.b) @ self.h_r @ (theta - self.b)


class Step(NamedTuple):
    """Hyperparameters of one step: scalars (arrays under `vmap`), T a Python int."""

    eta_in: float | jax.Array
    eta_out: float | jax.Array
    rho: float | jax.Array
    inner_steps: int


def random_quadratic(
    key: jax.Array,
    dim: int,
    *,
    forget_range: tuple[float, float] = (0.1, 1.0),
    retain_range: tuple[float, float] = (0.1, 1.0),
) -> Quadratic:
    """A quadratic with random eigenvectors and evenly spaced eigenvalues in the given ranges.

    A negative range gives a concave forget loss; a range from 0 a singular one.
    """
    keys = jax.random.split(key, 4)

    def hessian(key: jax.Array, low: float, high: float) -> jax.Array:
        q, _ = jnp.linalg.qr(jax.random.normal(key, (dim, dim)))
        h = (q * jnp.linspace(low, high, dim)) @ q.T
        return (h + h.T) / 2

    return Quadratic(
        hessian(keys[0], *forget_range),
        hessian(keys[1], *retain_range),
        jax.random.normal(keys[2], (dim,)),
        jax.random.normal(keys[3], (dim,)),
    )


def grad_phi(problem: Quadratic, theta: jax.Array, beta: float | jax.Array) -> jax.Array:
    """grad Phi for the cosine similarity, shape (d,)."""
    return _grad_phi_parts(problem, theta, beta)[0]


def _grad_phi_parts(
    problem: Quadratic, theta: jax.Array, beta: float | jax.Array
) -> tuple[jax.Array, ...]:
    g_f, g_r = problem.h_f @ (theta - problem.a), problem.h_r @ (theta - problem.b)
    n_f, n_r = jnp.linalg.norm(g_f), jnp.linalg.norm(g_r)
    f, r = g_f / n_f, g_r / n_r
    c = f @ r
    u, v = (r - c * f) / n_f, (f - c * r) / n_r
    return g_f - beta * (problem.h_f @ u + problem.h_r @ v), n_f, n_r, f, r, c, u, v


def hess_phi_product(
    problem: Quadratic, theta: jax.Array, beta: float | jax.Array, w: jax.Array
) -> jax.Array:
    """Hess Phi w for the cosine similarity, shape (d,)."""
    _, n_f, n_r, f, r, c, u, v = _grad_phi_parts(problem, theta, beta)
    p, q = problem.h_f @ w, problem.h_r @ w
    df, dr = (p - f * (f @ p)) / n_f, (q - r * (r @ q)) / n_r
    dc = df @ r + f @ dr
    du = (dr - dc * f - c * df) / n_f - u * (f @ p) / n_f
    dv = (df - dc * r - c * dr) / n_r - v * (r @ q) / n_r
    return p - beta * (problem.h_f @ du + problem.h_r @ dv)


def penalty_matrix(problem: Quadratic, rho: float | jax.Array) -> jax.Array:
    """P = H_r + 2 rho H_f^2, the Hessian of F at beta = 0, shape (d, d)."""
    return problem.h_r + 2 * rho * problem.h_f @ problem.h_f


def penalised_minimiser(problem: Quadratic, rho: float | jax.Array) -> jax.Array:
    """theta_rho, the minimiser of F at beta = 0, shape (d,).

    It tends to a, the memorised point, as rho grows (in the range of H_f, if that is singular): the
    penalty undoes the forgetting. Where P is singular, the minimiser of least norm.
    """
    rhs = problem.h_r @ problem.b + 2 * rho * problem.h_f @ problem.h_f @ problem.a
    return jnp.linalg.pinv(penalty_matrix(problem, rho), hermitian=True) @ rhs


def inner_growth(problem: Quadratic, step: Step) -> jax.Array:
    """G = (I + eta_in H_f)^T: T inner ascents take theta - a to G (theta - a)."""
    single = jnp.eye(problem.a.shape[0]) + step.eta_in * problem.h_f
    return jnp.linalg.matrix_power(single, step.inner_steps)


def iteration_matrix(problem: Quadratic, step: Step, variant: str) -> jax.Array:
    """M, the linear part of one outer iteration at beta = 0, shape (d, d)."""
    eye, p = jnp.eye(problem.a.shape[0]), penalty_matrix(problem, step.rho)
    growth = inner_growth(problem, step)
    if variant == "anchor":
        return eye - step.eta_out * p
    if variant == "lookahead":
        return eye - step.eta_out * p @ growth
    return (eye - step.eta_out * p) @ growth


def spectral_radius(matrix: jax.Array) -> jax.Array:
    """Largest modulus of an eigenvalue."""
    return jnp.max(jnp.abs(jnp.linalg.eigvals(matrix)))


def fixed_point(problem: Quadratic, step: Step, variant: str) -> jax.Array:
    """Where the iteration of a variant rests at beta = 0, shape (d,)."""
    theta_rho = penalised_minimiser(problem, step.rho)
    if variant == "anchor":
        return theta_rho
    if variant == "lookahead":
        return problem.a + jnp.linalg.solve(inner_growth(problem, step), theta_rho - problem.a)
    m = iteration_matrix(problem, step, variant)
    rhs = step.eta_out * problem.h_r @ (problem.b - problem.a)
    return problem.a + jnp.linalg.solve(jnp.eye(rhs.shape[0]) - m, rhs)


def stability_window(problem: Quadratic, step: Step, variant: str) -> tuple[jax.Array, jax.Array]:
    """The open interval of eta_out in which a variant converges; empty if low >= high.

    Needs P and G positive definite. For `endpoint`, M is similar to the symmetric
    `G - eta_out S`, S = G^1/2 P G^1/2, whose spectrum lies in (-1, 1) iff
    `I - G^-1 < eta_out P < I + G^-1`: below the window the inner ascent outruns the outer step,
    above it the outer step overshoots.
    """
    eye, p = jnp.eye(problem.a.shape[0]), penalty_matrix(problem, step.rho)
    growth = inner_growth(problem, step)
    if variant == "anchor":
        return jnp.zeros(()), 2 / jnp.linalg.eigvalsh(p)[-1]
    if variant == "lookahead":
        half = _symmetric_power(growth, 0.5)
        return jnp.zeros(()), 2 / jnp.linalg.eigvalsh(half @ p @ half)[-1]
    inverse, whiten = jnp.linalg.inv(growth), _symmetric_power(p, -0.5)
    low = jnp.linalg.eigvalsh(whiten @ (eye - inverse) @ whiten)[-1]
    high = jnp.linalg.eigvalsh(whiten @ (eye + inverse) @ whiten)[0]
    return jnp.maximum(low, 0.0), high


def _symmetric_power(matrix: jax.Array, power: float) -> jax.Array:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T
