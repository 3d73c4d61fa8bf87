"""Population statistics of batch norms out of those of batches."""

from typing import cast

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.network import Params, Statistics, logits_and_moments


def update_statistics(
    statistics: Statistics, moments: Statistics, momentum: float = 0.9
) -> Statistics:
    """One step of the exponential moving average that follows training.

    The variance stays the biased one of the batch, which training normalises by. PyTorch takes
    n / (n - 1) times it for n values a channel, and its momentum is one minus this one.

    Args:
      statistics: the average so far.
      moments: of the batch, as from `logits_and_moments`.
      momentum: weight of the past.

    Returns:
      The next average.

    >>> update_statistics({"mean": 1.0, "var": 1.0}, {"mean": 2.0, "var": 3.0}, momentum=0.5)
    {'mean': 1.5, 'var': 2.0}
    """
    return cast(
        Statistics,
        jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, statistics, moments),
    )


def combine_moments(moments: Statistics, weights: jax.Array | None = None) -> Statistics:
    """The moments of several batches together.

    The mean is that of the means; the variance is the mean of the variances plus the variance of
    the means (Wu and Johnson, 2021, arXiv:2105.07576, section 3).

    Args:
      moments: a tree as from `logits_and_moments` with a leading axis of N batches.
      weights: (N,) share of each batch, such as its number of examples; equal ones if None. They
        need not add up to one.

    Returns:
      The tree without the leading axis.

    >>> two = {"mean": jnp.array([[0.0], [2.0]]), "var": jnp.array([[1.0], [3.0]])}
    >>> jax.tree.map(float, jax.tree.map(jnp.squeeze, combine_moments(two)))
    {'mean': 1.0, 'var': 3.0}
    """

    def combine(norm: Statistics) -> Statistics:
        def average(x: jax.Array) -> jax.Array:
            return jnp.average(x, axis=0, weights=weights)

        mean = average(norm["mean"])
        return {"mean": mean, "var": average(norm["var"] + jnp.square(norm["mean"] - mean))}

    return cast(Statistics, jax.tree.map(combine, moments, is_leaf=lambda node: "var" in node))


def estimate_statistics(config: VisionConfig, params: Params, batches: jax.Array) -> Statistics:
    """Population statistics of given parameters, from scratch ("precise BN").

    Moving averages lag behind parameters, and lag most when these have just been moved to
    unlearn. Each batch passes with its own statistics in all layers, as in training (Wu and
    Johnson, 2021, arXiv:2105.07576, section 3).

    Args:
      config: the model.
      params: as from `init_variables`.
      batches: (N, B, H, W, C) floats, normalised as in training.

    Returns:
      A tree like `Variables.statistics`.

    Raises:
      InputError: there is no batch, or the images are not of the model's shape or not floats.
    """
    if batches.ndim != 5 or not batches.shape[0]:
        raise InputError(
            f"batches have shape {batches.shape}; expected (N, B, H, W, C) with N > 0 batches"
        )
    moments = jax.lax.map(lambda images: logits_and_moments(config, params, images)[1], batches)
    return combine_moments(moments)
