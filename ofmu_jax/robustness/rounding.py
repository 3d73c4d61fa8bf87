"""Rounding of weights: what a small update has hidden comes back when the update is rounded away.

Zhang et al., 2024, "Catastrophic Failure of LLM Unlearning via Quantization", arXiv:2410.16454.
"""

import functools

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params
from ofmu_jax.robustness.matrices import map_matrices


def rounded(
    config: DecoderConfig, params: Params, bits: int, group_size: int | None = None
) -> Params:
    """Every weight matrix rounded to the nearest of `2^bits - 1` evenly spaced values.

    The values are symmetric about 0 and reach the greatest magnitude of an output channel, or of
    each group of its inputs.

    Args:
      config: the shape of the model.
      params: its parameters.
      bits: 2 to 16.
      group_size: inputs that share a step; all of an output channel's if None.

    Returns:
      The parameters, in their own types.

    Raises:
      InputError: `bits` or `group_size` is out of range.
    """
    if not 2 <= bits <= 16:
        raise InputError(f"bits is {bits}; expected 2 to 16")
    if group_size is not None and group_size < 1:
        raise InputError(f"group_size is {group_size}; expected at least 1")
    return map_matrices(lambda w, _: round_matrix(w, bits, group_size), config, params)


@functools.partial(jax.jit, static_argnums=(1, 2))
def round_matrix(weights: jax.Array, bits: int, group_size: int | None = None) -> jax.Array:
    """Rounds (L, inputs, outputs) as `rounded` does; off by half a step at most.

    >>> round_matrix(jnp.array([[[-1.0], [0.3], [0.7]]]), 2).tolist()
    [[[-1.0], [0.0], [1.0]]]
    """
    layers, inputs, outputs = weights.shape
    size = inputs if group_size is None else min(group_size, inputs)
    padded = jnp.pad(weights, ((0, 0), (0, -inputs % size), (0, 0)))
    groups = padded.reshape(layers, -1, size, outputs)
    most = 2 ** (bits - 1) - 1
    step = jnp.max(jnp.abs(groups), axis=2, keepdims=True) / most
    whole = jnp.clip(jnp.round(groups / jnp.where(step > 0, step, 1)), -most, most)
    return (whole * step).reshape(padded.shape)[:, :inputs]
