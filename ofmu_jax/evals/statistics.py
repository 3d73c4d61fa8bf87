"""How far a figure would move with other items of the same kind."""

from collections.abc import Callable

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


def bootstrap_interval(statistic: Callable[..., float], *samples: np.ndarray) -> list[float]:
    """Percentile bootstrap interval of 95 % over items (Efron and Tibshirani, 1993, ch. 13).

    It says how the choice of items matters, not what another seed of training would give. The
    resamples are the same every time.

    Args:
      statistic: from the samples, in their order, to a number.
      *samples: arrays (N, ...), (M, ...) whose first axis is items; each is resampled by itself,
        so what was measured on the same items belongs into one array.

    Returns:
      The lower and the upper end.

    >>> low, high = bootstrap_interval(np.mean, np.arange(100.0))
    >>> low < 49.5 < high, round(high - low, 1)
    (True, 11.2)
    """
    if min(map(len, samples)) < 2:  # nothing to resample
        value = float(statistic(*samples))
        return [value, value]
    # Of indices, so that a sample may have further axes.
    result = stats.bootstrap(
        tuple(np.arange(len(sample)) for sample in samples),
        lambda *rows: statistic(*(s[r] for s, r in zip(samples, rows, strict=True))),
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return [float(end) for end in result.confidence_interval]
