"""Per-objective gradients, stacked on a leading objective axis, and how they relate.

Everything downstream (the similarity of `objectives`, the update rules of multi-objective
optimisation, `optax.experimental.aggregating`) consumes gradients in one form: a tree like the
parameters whose leaves carry one more leading axis, the objective axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Params: TypeAlias = Any
"""Any pytree of arrays: a linen or haiku dict, an nnx state, a plain dict, a single array."""

LossFn: TypeAlias = Callable[[Params], jax.Array]
"""A loss with its batch already bound: parameters in, scalar out."""


@dataclasses.dataclass(frozen=True)
class StackedLoss:
    """Several objectives that share one loss function and one batch shape.

    Their gradients come from a single `jax.vmap(jax.grad(loss), in_axes=(None, 0))`.

    Attributes:
      loss: `(params, batch) -> scalar`.
      batches: a pytree of arrays whose leading axis, of length m, counts the objectives.

    Raises:
      ValueError: if the leaves of `batches` do not share a leading axis of length >= 1.
    """

    loss: Callable[[Params, Any], jax.Array]
    batches: Any

    def __post_init__(self) -> None:
        sizes = {x.shape[0] if jnp.ndim(x) else None for x in jax.tree.leaves(self.batches)}
        if len(sizes) != 1 or sizes & {None, 0}:
            raise ValueError(
                "StackedLoss.batches: every leaf needs the same leading objective axis of "
                f"length >= 1, got lengths {sorted(sizes, key=str)}"
            )


Objective: TypeAlias = LossFn | Sequence[LossFn] | StackedLoss
"""One loss, a sequence of losses, or a `StackedLoss`: one or several objectives."""


def map_objectives(fn: Callable[..., Any], objective: Objective, *stacked: Any) -> Any:
    """Applies `fn(loss, *slices)` to each objective and stacks the results.

    Args:
      fn: takes a loss of the parameters alone and one slice of each of `stacked`.
      objective: one loss, a sequence of them, or a `StackedLoss` (then `fn` runs under `vmap`).
      *stacked: pytrees with a leading objective axis.

    Returns:
      What `fn` returns, with a leading objective axis on every leaf.
    """
    if isinstance(objective, StackedLoss):
        loss = objective.loss
        return jax.vmap(lambda batch, *xs: fn(lambda p: loss(p, batch), *xs))(
            objective.batches, *stacked
        )
    losses = [objective] if callable(objective) else list(objective)
    if not losses:
        raise ValueError("an objective needs at least one loss function, got an empty sequence")
    results = [
        fn(loss, *jax.tree.map(lambda x, k=k: x[k], stacked)) for k, loss in enumerate(losses)
    ]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *results)


def value_and_gradients(objective: Objective, params: Params) -> tuple[jax.Array, Params]:
    """Losses and gradients of every objective at `params`.

    Returns:
      The losses, shape `(m,)`, and the gradients, a tree like `params` with a leading axis m.

    Example:
      >>> import jax.numpy as jnp
      >>> losses, grads = value_and_gradients(
      ...     [lambda p: jnp.sum(p**2), lambda p: jnp.sum(p)], jnp.array([1.0, 2.0]))
      >>> losses.tolist(), grads.tolist()
      ([5.0, 3.0], [[2.0, 4.0], [1.0, 1.0]])
    """
    return map_objectives(lambda loss: jax.value_and_grad(loss)(params), objective)


def inner_products(a: Params, b: Params) -> jax.Array:
    """Inner products `<a_i, b_j>` of two stacks of trees, shape `(m, n)`.

    Accumulated in float32 at least, whatever the dtype of the leaves.
    """

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
        x, y = x.astype(dtype), y.astype(dtype)
        # Contracting all axes but the first keeps each leaf's sharding; a reshape would not.
        axes = tuple(range(1, x.ndim))
        return jnp.tensordot(x, y, axes=(axes, axes))

    products = jax.tree.leaves(jax.tree.map(leaf, a, b))
    if not products:
        raise ValueError("the parameter tree has no leaves, so no gradient can be taken")
    return functools.reduce(jnp.add, products)


def gram(grads: Params) -> jax.Array:
    """Gram matrix `G_ij = <g_i, g_j>` of stacked gradients, shape `(m, m)`.

    Its diagonal holds the squared norms; a negative entry is a conflict between two objectives
    (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", definition 1).
    """
    return inner_products(grads, grads)


def norms(grads: Params, eps: float = 0.0) -> jax.Array:
    """Guarded norms `sqrt(|g_i|^2 + eps^2)` of stacked gradients, shape `(m,)`."""
    squares = [
        jnp.sum(
            jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))),
            axis=tuple(range(1, x.ndim)),
        )
        for x in jax.tree.leaves(grads)
    ]
    return jnp.sqrt(functools.reduce(jnp.add, squares) + eps**2)


def cosines(a: Params, b: Params, eps: float = 0.0) -> jax.Array:
    """Cosines between every gradient of `a` and every gradient of `b`, shape `(m, n)`.

    With `eps > 0` both norms are guarded as in `norms`, so a vanishing gradient gives 0.
    """
    return inner_products(a, b) / (norms(a, eps)[:, None] * norms(b, eps)[None, :])
