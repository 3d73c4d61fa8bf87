"""A step size fitted to a loss whose least value is known."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel import curvature
from ofmu_jax.bilevel.gradients import Params


def polyak_bounded(
    optimizer: optax.GradientTransformation, minimum: float | jax.Array = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Shortens an optimiser's steps where the loss would reach its least value earlier.

    Along a step d the parabola that has the loss's value f and slope g'd at the start, and the
    known `minimum` as its least value, has it at t* = 2 (f - minimum) / -g'd. The step taken is
    min(1, t*) d: `optimizer` gives the direction and a bound, f tells how far. The nearer the loss
    is to its minimum the shorter are the steps, and at the minimum there is none, however large
    the optimiser's learning rate. Where g'd >= 0, so that d leads to no minimum, it is left as it
    is. No gradient beyond the optimiser's own is needed.

    Args:
      optimizer: any optax transformation, without momentum for the parabola to mean something.
      minimum: of the loss that `update` is given as `value`; a scalar.

    Returns:
      A transformation whose `update` needs `value`, the loss at `params`, as `optax.polyak_sgd`
      does; `maximize_inner` gives it -Phi.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = polyak_bounded(optax.sgd(10.0))
      >>> x = jnp.array([3.0, -4.0])  # of f(x) = |x|^2, the least value of which is 0
      >>> step, _ = tx.update(2 * x, tx.init(x), x, value=jnp.sum(x**2))
      >>> (x + step).tolist()
      [0.0, 0.0]

    References:
      Polyak, "Introduction to Optimization", 1987, section 5.3; Loizou et al., "Stochastic Polyak
      Step-size for SGD", AISTATS 2021, SPS_max with c = 1/2, here along any direction.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(
        updates: Params,
        state: optax.OptState,
        params: Params | None = None,
        *,
        value: Any,
        **extra_args: Any,
    ) -> tuple[Params, optax.OptState]:
        step, state = optimizer.update(updates, state, params, value=value, **extra_args)
        fall = -curvature.inner_product(updates, step)
        # Where a loss's noise takes it below its minimum nothing is left to be gained.
        left = jnp.maximum(2 * (jnp.asarray(value, fall.dtype) - minimum), 0)
        part = jnp.where(fall > left, left / jnp.where(fall > left, fall, 1), 1)
        return optax.tree.cast_like(optax.tree.scale(part, step), step), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
