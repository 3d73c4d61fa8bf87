"""Update rules that take the conflict out of one gradient or both."""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from ofmu_jax.aggregators.linear import linear_combination, nonzero


def pcgrad() -> aggregating.Aggregator:
    """Each gradient without its component along the other, where they conflict; then the sum.

        c = min(<g_r, g_f>, 0),   d = (1 - c / |g_r|^2) g_r + (1 - c / |g_f|^2) g_f.

    With two objectives the order of the projections does not matter, so nothing is random. d
    conflicts with neither gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = pcgrad()
      >>> d, _ = rule.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), rule.init(None))
      >>> d.tolist()  # (1, 0) + (1/2) (-1, 1), and (-1, 1) + (1, 0)
      [0.5, 1.5]

    References:
      Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782.
    """

    def weights(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
        conflict = jnp.minimum(gram[0, 1], 0)
        return 1 - conflict / nonzero(gram[0, 0]), 1 - conflict / nonzero(gram[1, 1])

    return linear_combination(weights)


def projection() -> aggregating.Aggregator:
    """The forget gradient without its component along -g_r, plus the retain gradient.

        d = g_r + g_f - min(<g_r, g_f>, 0) / |g_r|^2 g_r.

    The one-sided case of `pcgrad`: the retain gradient is never shortened, <d, g_r> >= |g_r|^2.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = projection()
      >>> d, _ = rule.update(jnp.array([[1.0, 0.0], [-3.0, 1.0]]), rule.init(None))
      >>> d.tolist()
      [1.0, 1.0]

    References:
      Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420, whose
      projected gradient is d - g_r, for its memory as what is retained.
    """

    def weights(gram: jax.Array) -> tuple[jax.Array, float]:
        return 1 - jnp.minimum(gram[0, 1], 0) / nonzero(gram[0, 0]), 1.0

    return linear_combination(weights)
