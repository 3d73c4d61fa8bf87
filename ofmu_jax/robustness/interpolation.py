"""Interpolation between the original and the unlearned weights: how far away is the knowledge?"""

from typing import Any

import jax
import jax.numpy as jnp


def interpolated(start: Any, end: Any, t: float) -> Any:
    """`(1 - t) start + t end`, leaf by leaf, in the types of `start`.

    Args:
      start: any pytree of arrays, such as the unlearned model's parameters.
      end: one of the same structure and shapes, such as the original's.
      t: 0 gives `start`, 1 gives `end`.

    >>> interpolated(jnp.array([0.0, 2.0]), jnp.array([4.0, 2.0]), 0.25).tolist()
    [1.0, 2.0]
    """

    def between(a: jax.Array, b: jax.Array) -> jax.Array:
        wide = (1 - t) * a.astype(jnp.float32) + t * b.astype(jnp.float32)
        return wide.astype(a.dtype)

    return jax.tree.map(between, start, end)
