"""Directional derivatives of gradient fields: Hessian-vector products without the Hessian.

Three ways, by name:

* `exact`: forward over reverse, `jax.jvp` of the gradient. One reverse pass stays innermost, so
  the memory is a small multiple of the gradient's at every order.
* `finite_difference`: `(field(x + h w) - field(x)) / h`, one more gradient.
* `trajectory`: the inner loop moves along grad Phi anyway; the change of grad Phi between two
  consecutive iterates on the same batch is the Hessian times the step, at no extra gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel.gradients import Params, scalar_dtype

FIELD_MODES = ("exact", "finite_difference")
HVP_MODES = (*FIELD_MODES, "trajectory")


def squared_norm(tree: Params) -> jax.Array:
    """Squared Euclidean norm of a tree, accumulated in float32 at least."""
    return inner_product(tree, tree)


def inner_product(a: Params, b: Params) -> jax.Array:
    """Euclidean inner product of two trees, accumulated in float32 at least."""

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
        return jnp.sum(x.astype(dtype) * y.astype(dtype))

    return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)), jnp.float32(0.0))


def finite_difference_step(params: Params, tangent: Params, order: int = 1) -> jax.Array:
    """The step h of a one-sided difference along `tangent`.

    `h |tangent| = eps^(1 / (order + 1)) * max(|params|, 1)`, where eps is the resolution of the
    coarsest floating dtype among the leaves: the root balances rounding, of order eps / h, and
    truncation, of order h. Scaling by |params| keeps the displacement visible in float32, whatever
    the size of the gradient. `order = 2` is for a field that is itself a finite difference, hence
    known to about eps^(1/2) only.
    """
    eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
    scale = jnp.maximum(jnp.sqrt(squared_norm(params)), 1.0)
    length = jnp.sqrt(squared_norm(tangent))
    return eps ** (1 / (order + 1)) * scale / jnp.where(length > 0, length, 1.0)


def directional_derivative(
    field: Callable[[Params], Params],
    params: Params,
    tangent: Params,
    *,
    mode: str = "exact",
    value: Params | None = None,
    order: int = 1,
) -> Params:
    """Derivative of a vector field along `tangent`: `J_field(params) tangent`.

    With `field = jax.grad(loss)` this is the Hessian-vector product of the loss; with
    `field = grad Phi` it is Hess Phi times the tangent, which holds third derivatives of the
    losses.

    Args:
      field: maps parameters to a tree like them.
      params: where to differentiate.
      tangent: the direction, a tree like `params`.
      mode: "exact" or "finite_difference".
      value: `field(params)` where already known; a finite difference then costs one evaluation.
      order: see `finite_difference_step`.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: if `mode` is another.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = lambda p: jnp.sum(p ** 3)
      >>> directional_derivative(jax.grad(loss), jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5]))
      Array([6., 6.], dtype=float32)
    """
    tangent = optax.tree.cast_like(tangent, params)
    if mode == "exact":
        return jax.jvp(field, (params,), (tangent,))[1]
    if mode != "finite_difference":
        raise ValueError(f"mode must be one of {FIELD_MODES}, got {mode!r}")
    start = field(params) if value is None else value
    h = finite_difference_step(params, tangent, order)
    end = field(jax.tree.map(lambda p, t: p + (h * t).astype(p.dtype), params, tangent))
    return jax.tree.map(lambda a, b: ((b - a) / h).astype(a.dtype), start, end)


class Secant(NamedTuple):
    """What two consecutive iterates tell of the curvature along the path.

    Attributes:
      hvp: estimate h of Hess Phi . grad Phi, a tree like the parameters (None if not asked for).
      curvature: `<grad Phi, h> / |grad Phi|^2`, scalar: with an exact h the curvature s along grad
        Phi; with any h, which is added to a gradient, its sign says whether that opposes the ascent
        of Phi.
    """

    hvp: Any
    curvature: jax.Array


def secant(
    gradient: Params, displacement: Params, next_gradient: Params, *, keep_hvp: bool = True
) -> Secant:
    """Hess Phi . grad Phi from one inner step `y -> y + d`.

    `grad Phi(y + d) - grad Phi(y) = Hess Phi d + O(|d|^2)`. With plain ascent `d = eta grad Phi`
    and the quotient by eta is the wanted product; in general d is rescaled by
    `<d, grad Phi> / |d|^2`, the coefficient of the projection of grad Phi on d, which is `1 / eta`
    for plain ascent and needs no knowledge of the inner optimiser. For a preconditioned inner
    step the estimate is that of the projection, not of grad Phi itself.

    Args:
      gradient: grad Phi at y.
      displacement: d.
      next_gradient: grad Phi at y + d, on the same batch.
      keep_hvp: whether to return the product, or the curvature alone.
    """
    length = squared_norm(displacement)
    alpha = inner_product(displacement, gradient) / jnp.where(length > 0, length, 1.0)
    difference = optax.tree.sub(next_gradient, gradient)
    norm = squared_norm(gradient)
    s = alpha * inner_product(gradient, difference) / jnp.where(norm > 0, norm, 1.0)
    return Secant(
        hvp=optax.tree.cast_like(optax.tree.scale(alpha, difference), gradient)
        if keep_hvp
        else None,
        curvature=s.astype(scalar_dtype(gradient)),
    )


def unknown_secant(params: Params, *, keep_hvp: bool) -> Secant:
    """The secant before anything was measured: a zero product and a NaN curvature."""
    return Secant(
        hvp=optax.tree.zeros_like(params) if keep_hvp else None,
        curvature=jnp.full((), jnp.nan, scalar_dtype(params)),
    )
