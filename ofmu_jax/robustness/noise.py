"""Noise on weights: what unlearning has only just pushed away may come back near by."""

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.robustness.matrices import map_matrices


def noisy(config: DecoderConfig, params: Params, scale: float, key: jax.Array) -> Params:
    """Each weight matrix with Gaussian noise of `scale` times its root mean square.

    Args:
      config: the shape of the model.
      params: its parameters.
      scale: relative standard deviation, > 0.
      key: a `jax.random` key.

    Raises:
      InputError: `scale` is not positive.
    """
    if not scale > 0:
        raise InputError(f"noise scale is {scale}; expected > 0")

    return map_matrices(
        lambda w, number: _with_noise(w, scale, jax.random.fold_in(key, number)), config, params
    )


@jax.jit
def _with_noise(weights: jax.Array, scale: float, key: jax.Array) -> jax.Array:
    # Of each layer's own matrix.
    size = scale * jnp.sqrt(jnp.mean(jnp.square(weights), axis=(1, 2), keepdims=True))
    return weights + size * jax.random.normal(key, weights.shape)
