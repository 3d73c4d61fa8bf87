"""Losses of batches too large for memory, one microbatch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.bilevel.gradients import LossFn, Params

BatchLoss = Callable[[Params, Any], jax.Array]


def accumulated(loss: BatchLoss, batches: Any, weights: jax.Array) -> LossFn:
    """The weighted mean of a loss over microbatches, `sum_i w_i loss(p, batch_i) / sum_i w_i`.

    Its gradient is accumulated over the microbatches in a loop, so that what the backward pass
    keeps is that of one of them, and nothing is computed twice. As the whole is one loss to whoever
    differentiates it, a cosine or a Hessian-vector product is that of accumulated gradients. One
    reverse pass at most: over it, forward passes to any order.

    Args:
      loss: `(params, batch) -> scalar`, a mean over whatever a microbatch has `weights[i]` of.
      batches: a pytree of arrays with a leading axis (m,) of microbatches.
      weights: (m,), >= 0; the mean is 0 where all of them are.

    Returns:
      A loss of the parameters alone.

    Example:
      >>> halves = jnp.array([[1.0, 3.0], [5.0, 7.0]])
      >>> loss = accumulated(lambda p, x: jnp.mean((p - x) ** 2), halves, jnp.array([2.0, 2.0]))
      >>> tuple(map(float, jax.value_and_grad(loss)(4.0)))  # as of all four at once
      (5.0, 0.0)
    """
    total = jnp.sum(weights)
    shares = weights / jnp.where(total > 0, total, 1)

    @jax.custom_vjp
    def mean(params: Params, batches: Any, shares: jax.Array) -> jax.Array:
        return jnp.sum(shares * jax.lax.map(lambda batch: loss(params, batch), batches))

    def forward(params: Params, batches: Any, shares: jax.Array) -> tuple[jax.Array, Params]:
        def add(sums: Any, microbatch: Any) -> tuple[Any, None]:
            batch, share = microbatch
            found = jax.value_and_grad(loss)(params, batch)
            return jax.tree.map(lambda s, x: s + (share * x).astype(s.dtype), sums, found), None

        # A sum of many small terms needs more digits than a half-precision parameter has.
        zeros = jax.tree.map(
            lambda x: jnp.zeros(jnp.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32)),
            (shares[0], params),
        )
        (value, gradient), _ = jax.lax.scan(add, zeros, (batches, shares))
        return value, jax.tree.map(lambda g, p: g.astype(jnp.result_type(p)), gradient, params)

    def backward(gradient: Params, cotangent: jax.Array) -> tuple[Params, None, None]:
        scaled = jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient)
        return scaled, None, None

    mean.defvjp(forward, backward)
    return lambda params: mean(params, batches, shares)


def split_rows(batch: Any, count: int) -> Any:
    """Microbatches of a batch: every array (B, ...) becomes (count, B / count, ...).

    Every count-th row goes into the same one: so each microbatch is spread over the devices among
    which the rows are divided in runs, and nothing is moved.

    >>> split_rows(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)
