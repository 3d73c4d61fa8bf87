"""The shortest convex combination of the two gradients."""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from ofmu_jax.aggregators.linear import linear_combination, nonzero


def mgda() -> aggregating.Aggregator:
    """d = a g_r + (1 - a) g_f with the a of [0, 1] that makes d shortest.

        a = clip(<g_f - g_r, g_f> / |g_r - g_f|^2, 0, 1).

    Where d vanishes the point is Pareto-stationary; elsewhere <d, g_r> and <d, g_f> are at least
    |d|^2, so that a small step along -d lowers both losses.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = mgda()
      >>> rule.update(jnp.array([[2.0, 0.0], [0.0, 2.0]]), rule.init(None))[0].tolist()
      [1.0, 1.0]

    References:
      Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
      Comptes Rendus Mathématique 350; Sener and Koltun 2018, arXiv 1810.04650, for the closed form.
    """

    def weights(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
        distance = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
        # Between equal gradients any a will do; rounding may put their distance below 0.
        a = (gram[1, 1] - gram[0, 1]) / nonzero(distance)
        a = jnp.clip(a, 0, 1)
        return a, 1 - a

    return linear_combination(weights)
