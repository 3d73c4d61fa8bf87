"""The two objectives of OFMU as pure functions of the parameters.

Inner, to be maximised:  Phi = L_f - beta * S,  S = mean_ij psi(cos(grad L_f,i, grad L_r,j)).
Outer, to be minimised:  F = L_r + rho * |grad Phi|^2.

With one forget and one retain loss and psi(c) = c this is the formulation of Asif and Mohammadi
Amiri, "OFMU: Optimization-Driven Framework for Machine Unlearning" (arXiv 2509.22483). With
several, L_f and L_r are means and S averages over all pairs of a forget and a retain objective.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel import curvature, gradients, schedules
from ofmu_jax.bilevel.gradients import LossFn, Objective, Params, StackedLoss

SIMILARITIES = ("cosine", "squared_cosine")


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How the similarity of forget and retain gradients is measured and differentiated.

    Attributes:
      kind: "cosine", psi(c) = c, as published: maximising -c drives the gradients towards opposite
        directions. "squared_cosine", psi(c) = c^2: drives them towards orthogonal ones.
      hvp: "exact" or "finite_difference", how H_f u + H_r v is computed.
      eps: guards the norms, `sqrt(|g|^2 + eps^2)`; units of a gradient norm. The cosine is
        singular where a gradient vanishes: |grad cos| grows like 1 / |g|.
      clip: bound on the decorrelation term `beta grad S`, relative to |g_f|; `None` for none.
        Where it binds, the inner direction is no longer the gradient of a function.
      every: the inner loop takes the term anew at each `every`-th of its steps, from the first on,
        and keeps it in between; a step in between takes the forget gradient alone, and its change
        tells of Hess L_f alone.

    Raises:
      ValueError: for an unknown kind or mode, or a number out of range.
    """

    kind: str = "cosine"
    hvp: str = "exact"
    eps: float = 1e-8
    clip: float | None = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {SIMILARITIES}, got {self.kind!r}")
        if self.hvp not in curvature.FIELD_MODES:
            raise ValueError(
                f"the similarity's hvp must be one of {curvature.FIELD_MODES}, got {self.hvp!r}"
            )
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"the similarity's eps must be positive and finite, got {self.eps}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"the similarity's clip must be positive or None, got {self.clip}")
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"the similarity's every must be an int >= 1, got {self.every!r}")

    def psi(self, c: jax.Array) -> jax.Array:
        """The penalty of a cosine."""
        return c if self.kind == "cosine" else jnp.square(c)

    def dpsi(self, c: jax.Array) -> jax.Array:
        """Its derivative."""
        return jnp.ones_like(c) if self.kind == "cosine" else 2 * c


def as_similarity(similarity: str | Similarity) -> Similarity:
    """A `Similarity` from itself or from the name of its kind."""
    return similarity if isinstance(similarity, Similarity) else Similarity(similarity)


class PhiTerms(NamedTuple):
    """What one evaluation of grad Phi shows besides the gradient; scalars, float32 at least.

    Without a similarity term no retain gradient is taken, and what it would show is NaN.

    Attributes:
      forget_loss: L_f, mean over the forget objectives.
      retain_loss: L_r, mean over the retain objectives.
      cosine: mean cosine between forget and retain gradients.
      forget_norm: |g_f|, norm of the mean forget gradient.
      retain_norm: |g_r|, norm of the mean retain gradient.
      phi: the value of Phi.
      phi_norm: |grad Phi|, after the clip where it binds.
    """

    forget_loss: jax.Array
    retain_loss: jax.Array
    cosine: jax.Array
    forget_norm: jax.Array
    retain_norm: jax.Array
    phi: jax.Array
    phi_norm: jax.Array


def unknown_terms(params: Params) -> PhiTerms:
    """The terms before anything was measured: all NaN."""
    dtype = curvature.scalar_dtype(params)
    return PhiTerms(*(jnp.full((), jnp.nan, dtype) for _ in PhiTerms._fields))


def is_static_zero(weight: schedules.ScalarOrSchedule) -> bool:
    """Whether a weight is the number 0 when the program is built: its term can be left out."""
    return isinstance(weight, int | float) and weight == 0


def phi(
    forget: Objective, retain: Objective, beta: float, similarity: str | Similarity = "cosine"
) -> LossFn:
    """Phi as a function of the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> forget = lambda p: 0.5 * jnp.sum(p**2)          # gradient p
      >>> retain = lambda p: p[0]                          # gradient (1, 0)
      >>> float(phi(forget, retain, beta=0.5)(jnp.array([0.0, 2.0])))  # orthogonal: Phi = L_f
      2.0
    """
    sim = as_similarity(similarity)

    def value(params: Params) -> jax.Array:
        forget_losses, g_f = gradients.value_and_gradients(forget, params)
        _, g_r = gradients.value_and_gradients(retain, params)
        return jnp.mean(forget_losses) - beta * jnp.mean(
            sim.psi(gradients.cosines(g_f, g_r, sim.eps))
        )

    return value


Tangent: TypeAlias = Callable[[int | jax.Array], Params]
"""The tangent of the k-th objective, made where it is asked for: all at once would be held."""


def similarity_tangents(g_f: Params, g_r: Params, sim: Similarity) -> tuple[Tangent, Tangent]:
    """The directions u_i, v_j in which the Hessians act in the gradient of the similarity.

    For one pair and the cosine c, hats for unit vectors:
    `u = (r^ - c f^) / |g_f|`, `v = (f^ - c r^) / |g_r|`, and `grad cos = H_f u + H_r v`.

    Args:
      g_f: forget gradients, leading axis m.
      g_r: retain gradients, leading axis n.
      sim: the similarity.

    Returns:
      i -> u_i and j -> v_j: the derivatives of the mean penalty with respect to each gradient.
    """
    n_f, n_r = gradients.norms(g_f, sim.eps), gradients.norms(g_r, sim.eps)
    c = gradients.inner_products(g_f, g_r) / (n_f[:, None] * n_r[None, :])
    weight = sim.dpsi(c) / c.size

    def tangents(
        own: Params,
        n_own: jax.Array,
        other: Params,
        n_other: jax.Array,
        w: jax.Array,
        cos: jax.Array,
    ) -> Tangent:
        towards = w / (n_own[:, None] * n_other[None, :])
        back = jnp.sum(w * cos, axis=1) / n_own**2

        def tangent(k: int | jax.Array) -> Params:
            return jax.tree.map(
                lambda a, b: (
                    jnp.tensordot(towards[k].astype(b.dtype), b, axes=1)
                    - back[k].astype(a.dtype) * a[k]
                ),
                own,
                other,
            )

        return tangent

    return tangents(g_f, n_f, g_r, n_r, weight, c), tangents(g_r, n_r, g_f, n_f, weight.T, c.T)


def grad_phi(
    forget: Objective,
    retain: Objective,
    params: Params,
    *,
    beta: float | jax.Array,
    similarity: str | Similarity = "cosine",
) -> tuple[Params, PhiTerms]:
    """The gradient of Phi by its exact formula, `g_f - beta (H_f u + H_r v)`.

    Two gradients and two Hessian-vector products per pair of objectives; with a `beta` that is the
    Python number 0, the forget gradient alone.

    Args:
      forget: forget objective(s).
      retain: retain objective(s).
      params: any pytree of floating arrays.
      beta: similarity weight, >= 0.
      similarity: kind of similarity, or a `Similarity` for its details.

    Returns:
      grad Phi, a tree like `params` with its dtypes, and the terms of Phi.
    """
    ascent, _, terms = grad_phi_and_term(
        forget, retain, params, beta=beta, sim=as_similarity(similarity)
    )
    return ascent, terms


def grad_phi_and_term(
    forget: Objective,
    retain: Objective,
    params: Params,
    *,
    beta: float | jax.Array,
    sim: Similarity,
) -> tuple[Params, Params | None, PhiTerms]:
    """`grad_phi` with `beta grad S` after the clip; None for a `beta` that is the number 0."""
    if is_static_zero(beta):
        return _forget_gradient(forget, params)
    (forget_losses, g_f), (retain_losses, g_r) = gradients.values_and_gradients(
        forget, retain, params
    )
    mean_f = jax.tree.map(lambda g: jnp.mean(g, axis=0), g_f)
    mean_r = jax.tree.map(lambda g: jnp.mean(g, axis=0), g_r)
    forget_norm = jnp.sqrt(curvature.squared_norm(mean_f) + sim.eps**2)
    c = gradients.cosines(g_f, g_r, sim.eps)

    term = _similarity_gradient(forget, retain, params, g_f, g_r, sim)
    factor = jnp.asarray(beta, jnp.promote_types(c.dtype, jnp.float32))
    if sim.clip is not None:
        length = factor * jnp.sqrt(curvature.squared_norm(term) + sim.eps**2)
        bound = sim.clip * forget_norm
        factor = factor * jnp.where(length > bound, bound / jnp.where(length > 0, length, 1), 1)
    taken = jax.tree.map(lambda g, t: (factor * t).astype(g.dtype), mean_f, term)
    ascent = optax.tree.cast_like(optax.tree.sub(mean_f, taken), params)
    terms = PhiTerms(
        forget_loss=jnp.mean(forget_losses),
        retain_loss=jnp.mean(retain_losses),
        cosine=jnp.mean(c),
        forget_norm=jnp.sqrt(curvature.squared_norm(mean_f)),
        retain_norm=jnp.sqrt(curvature.squared_norm(mean_r)),
        phi=jnp.mean(forget_losses) - beta * jnp.mean(sim.psi(c)),
        phi_norm=jnp.sqrt(curvature.squared_norm(ascent)),
    )
    dtype = curvature.scalar_dtype(params)
    return ascent, taken, jax.tree.map(lambda x: x.astype(dtype), terms)


def _forget_gradient(forget: Objective, params: Params) -> tuple[Params, None, PhiTerms]:
    """`grad_phi_and_term` of Phi = L_f."""
    losses, g_f = gradients.value_and_gradients(forget, params)
    ascent = jax.tree.map(lambda g: jnp.mean(g, axis=0), g_f)
    unknown = unknown_terms(params)
    loss, norm = (
        x.astype(unknown.phi.dtype)
        for x in (jnp.mean(losses), jnp.sqrt(curvature.squared_norm(ascent)))
    )
    terms = unknown._replace(forget_loss=loss, phi=loss, forget_norm=norm, phi_norm=norm)
    return optax.tree.cast_like(ascent, params), None, terms


def grad_phi_with_term(forget: Objective, params: Params, term: Params) -> tuple[Params, jax.Array]:
    """`g_f - term`, grad Phi at the price of the forget gradient with a term of elsewhere; L_f."""
    losses, g_f = gradients.value_and_gradients(forget, params)
    mean_f = optax.tree.cast_like(jax.tree.map(lambda g: jnp.mean(g, axis=0), g_f), params)
    loss = jnp.mean(losses).astype(curvature.scalar_dtype(params))
    return optax.tree.sub(mean_f, term), loss


def _similarity_gradient(
    forget: Objective,
    retain: Objective,
    params: Params,
    g_f: Params,
    g_r: Params,
    sim: Similarity,
) -> Params:
    """`grad S = sum_i H_f,i u_i + sum_j H_r,j v_j`, a tree like `params`."""
    u, v = similarity_tangents(g_f, g_r, sim)

    def product(loss: LossFn, tangent: Tangent, grads: Params, k: int | jax.Array) -> Params:
        return curvature.directional_derivative(
            jax.grad(loss),
            params,
            tangent(k),
            mode=sim.hvp,
            value=jax.tree.map(lambda g: g[k], grads),
        )

    def products(
        objective: Objective, tangent: Tangent, grads: Params
    ) -> list[gradients.Computation]:
        if not isinstance(objective, StackedLoss):
            return [
                functools.partial(product, loss, tangent, grads, k)
                for k, loss in enumerate(gradients.losses_of(objective))
            ]
        stacked, count = objective, len(jax.tree.leaves(objective.batches)[0])

        def sum_of_all() -> Params:
            each = jax.vmap(
                lambda k, batch: product(lambda p: stacked.loss(p, batch), tangent, grads, k)
            )(jnp.arange(count), stacked.batches)
            return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

        return [sum_of_all]

    return gradients.sum_in_turn([*products(forget, u, g_f), *products(retain, v, g_r)])


def penalised(
    forget: Objective,
    retain: Objective,
    beta: float,
    rho: float,
    similarity: str | Similarity = "cosine",
) -> LossFn:
    """F = L_r + rho |grad Phi|^2 as a function of the parameters.

    Its value takes second derivatives of the losses and its gradient third ones;
    `penalties.add_stationarity_penalty` gives that gradient in forward mode.
    """

    def value(params: Params) -> jax.Array:
        ascent, terms = grad_phi(forget, retain, params, beta=beta, similarity=similarity)
        retain_loss = terms.retain_loss
        if is_static_zero(beta):
            retain_loss = jnp.mean(gradients.value_and_gradients(retain, params)[0])
        return retain_loss + rho * curvature.squared_norm(ascent)

    return value
