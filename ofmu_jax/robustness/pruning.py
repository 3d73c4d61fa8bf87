"""Magnitude pruning: the smallest weights of every matrix become 0 (Han et al., 2015,
arXiv:1506.02626)."""

import functools

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.robustness.matrices import map_matrices


def pruned(config: DecoderConfig, params: Params, fraction: float) -> Params:
    """Each weight matrix without its smallest entries.

    Args:
      config: the shape of the model.
      params: its parameters.
      fraction: the part of each matrix, of every layer, that becomes 0, rounded down to whole
        entries.

    Raises:
      InputError: `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(f"pruned fraction is {fraction}; expected in [0, 1)")

    def prune(weights: jax.Array, number: int) -> jax.Array:
        del number
        size = weights[0].size
        kept = functools.partial(keep_largest, count=size - int(fraction * size))
        return jax.vmap(kept)(weights)

    return map_matrices(prune, config, params)


@functools.partial(jax.jit, static_argnames="count")
def keep_largest(weights: jax.Array, count: int) -> jax.Array:
    """The `count` entries of greatest magnitude, of equal ones the first; the others are 0.

    >>> keep_largest(jnp.array([1.0, -3.0, 2.0, -2.0]), 2).tolist()
    [0.0, -3.0, 2.0, 0.0]
    """
    order = jnp.argsort(-jnp.abs(weights).ravel(), stable=True)
    kept = jnp.zeros(weights.size, bool).at[order[:count]].set(True)
    return jnp.where(kept.reshape(weights.shape), weights, 0)
