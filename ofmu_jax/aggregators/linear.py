"""Update rules that combine the two gradients linearly, with weights from their inner products."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from ofmu_jax import bilevel

Scalar: TypeAlias = float | jax.Array


def linear_combination(
    weights: Callable[[jax.Array], tuple[Scalar, Scalar]],
) -> aggregating.Aggregator:
    """d = w_r g_r + w_f g_f, with (w_r, w_f) a function of the Gram matrix of (g_r, g_f).

    The products are accumulated in float32 at least; every leaf of d keeps the dtype of the
    gradients' leaf.

    Args:
      weights: from the Gram matrix, shape (2, 2), to the two weights.

    Returns:
      An Aggregator without state. Its `update` takes gradients of losses to be minimised whose
      leaves have a leading objective axis, (retain, forget), and returns d without that axis.
      `optax.experimental.aggregating.process` puts an optimiser behind it, unless that optimiser
      needs the losses: `process` hands extra arguments to `lax.cond`, which takes no functions.
    """

    def update(
        per_elt_updates: bilevel.Params,
        state: optax.OptState,
        params: bilevel.Params | None = None,
        **extra_args: Any,
    ) -> tuple[bilevel.Params, optax.OptState]:
        del params, extra_args
        _check_objective_axis(per_elt_updates)
        retain, forget = weights(_gram(per_elt_updates))

        def combine(g: jax.Array) -> jax.Array:
            wide = g.astype(jnp.promote_types(g.dtype, jnp.float32))
            return (forget * wide[1] + retain * wide[0]).astype(g.dtype)

        return jax.tree.map(combine, per_elt_updates), state

    return aggregating.Aggregator(optax.init_empty_state, update)


def weighted_sum(retain_weight: float = 1.0, forget_weight: float = 1.0) -> aggregating.Aggregator:
    """d = retain_weight g_r + forget_weight g_f, linear scalarisation.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = weighted_sum(forget_weight=0.5)
      >>> rule.update(jnp.array([[1.0, 0.0], [0.0, 4.0]]), rule.init(None))[0].tolist()
      [1.0, 2.0]
    """
    return linear_combination(lambda gram: (retain_weight, forget_weight))


def nonzero(square: jax.Array) -> jax.Array:
    """A squared norm to divide by: itself, or the least normal number where it vanishes.

    Divided by it, a product with its own gradient is bounded by the other gradient's norm. An
    epsilon added to it would leave a conflict behind the projection on a small gradient.
    """
    return jnp.maximum(square, jnp.finfo(square.dtype).tiny)


def _gram(grads: bilevel.Params) -> jax.Array:
    """`bilevel.gram` by sums in place of a matrix product.

    A product would copy both gradients into one operand, where sums read them as they are; and its
    default precision may be bfloat16's or TF32's, which leaves a conflict behind a projection.
    """

    def product(i: int, j: int) -> jax.Array:
        def leaf(g: jax.Array) -> jax.Array:
            wide = g.astype(jnp.promote_types(g.dtype, jnp.float32))
            return jnp.sum(wide[i] * wide[j])

        return functools.reduce(jnp.add, [leaf(g) for g in jax.tree.leaves(grads)])

    cross = product(0, 1)
    return jnp.array([[product(0, 0), cross], [cross, product(1, 1)]])


def _check_objective_axis(grads: bilevel.Params) -> None:
    leaves = jax.tree.leaves(grads)
    if not leaves:
        raise ValueError("the gradients have no leaves, so there is nothing to combine")
    for g in leaves:
        if jnp.ndim(g) == 0 or g.shape[0] != 2:
            raise ValueError(
                "the rule combines two objectives, (retain, forget): every leaf needs a leading "
                f"axis of length 2, got shape {jnp.shape(g)}"
            )
