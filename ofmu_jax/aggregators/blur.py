"""Forgetting at a set pace, retaining with what is left."""

import jax
from optax.experimental import aggregating

from ofmu_jax.aggregators.linear import linear_combination, nonzero


def blur(gamma: float = 1.0) -> aggregating.Aggregator:
    """d = g_r + (gamma - <g_r, g_f> / |g_f|^2) g_f, so that <d, g_f> = gamma |g_f|^2.

    Of all such d the one nearest to g_r: the forget loss, the lower level, falls as under gradient
    descent with gamma times the step, whatever the retain gradient.

    Args:
      gamma: pace of forgetting; a weight of the forget loss before this rule does the same.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = blur()
      >>> rule.update(jnp.array([[1.0, -7.0], [0.0, 2.0]]), rule.init(None))[0].tolist()
      [1.0, 2.0]

    References:
      Reisizadeh et al. 2025, "BLUR: A Bi-Level Optimization Approach for LLM Unlearning",
      arXiv 2506.08164.
    """

    def weights(gram: jax.Array) -> tuple[float, jax.Array]:
        return 1.0, gamma - gram[0, 1] / nonzero(gram[1, 1])

    return linear_combination(weights)
