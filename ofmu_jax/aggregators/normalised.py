"""Update rules in which the gradients' lengths do not matter."""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from ofmu_jax.aggregators.linear import linear_combination

EPS = 1e-8
"""Guard of a norm, `sqrt(|g|^2 + EPS^2)`, and of 1 + cos."""


def ngdiff() -> aggregating.Aggregator:
    """d = g_r / |g_r| + g_f / |g_f|, which conflicts with neither gradient.

    Its published learning rate is `scale_by_fitted_rate`.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = ngdiff()
      >>> rule.update(jnp.array([[3.0, 0.0], [0.0, -5.0]]), rule.init(None))[0].tolist()
      [1.0, -1.0]

    References:
      Bu et al. 2024, "Unlearning as multi-task optimization: A normalized gradient difference
      approach with an adaptive learning rate", arXiv 2410.22086.
    """
    return linear_combination(_inverse_norms)


def munba() -> aggregating.Aggregator:
    """d = (g_r / |g_r| + g_f / |g_f|) / sqrt(1 + cos), the two-player Nash bargaining solution.

    The weights a of d = a_r g_r + a_f g_f solve a_i <d, g_i> = 1 for both players. d has length
    sqrt(2) whatever the angle, so, other than `ngdiff`, it does not fade as the conflict grows.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = munba()
      >>> rule.update(jnp.array([[3.0, 0.0], [0.0, 5.0]]), rule.init(None))[0].tolist()
      [1.0, 1.0]

    References:
      Wu and Harandi 2024, "MUNBa: Machine Unlearning via Nash Bargaining", arXiv 2411.15537.
    """

    def weights(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
        retain, forget = _inverse_norms(gram)
        cosine = gram[0, 1] * retain * forget
        # Opposed gradients bargain for nothing, and rounding may put the cosine below -1.
        scale = jax.lax.rsqrt(jnp.maximum(1 + cosine, 0) + EPS)
        return retain * scale, forget * scale

    return linear_combination(weights)


def _inverse_norms(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse = 1 / jnp.sqrt(jnp.diagonal(gram) + EPS**2)
    return inverse[0], inverse[1]
