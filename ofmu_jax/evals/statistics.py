"""How far a figure would move with other items of the same kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


def bootstrap_interval(
    statistic: Callable[..., Any], *samples: np.ndarray, vectorized: bool = False
) -> list[float]:
    """Percentile bootstrap interval of 95 % over items (Efron and Tibshirani, 1993, ch. 13).

    It says how the choice of items matters, not what another seed of training would give. The
    resamples are the same every time.

    Args:
      statistic: from the samples, in their order, to a number.
      *samples: arrays (N, ...), (M, ...) whose first axis is items; each is resampled by itself,
        so what was measured on the same items belongs into one array.
      vectorized: `statistic` takes `axis`, as `np.mean` does, and the samples have one axis: all
        resamples are then worked out at once, to the same numbers.

    Returns:
      The lower and the upper end.

    >>> low, high = bootstrap_interval(np.mean, np.arange(100.0), vectorized=True)
    >>> low < 49.5 < high, round(high - low, 1)
    (True, 11.2)
    """
    if min(map(len, samples)) < 2:  # nothing to resample
        value = float(statistic(*samples))
        return [value, value]

    # Of indices, so that a sample may have further axes.
    def of_rows(*rows: np.ndarray, **axis: int) -> Any:
        return statistic(*(s[r] for s, r in zip(samples, rows, strict=True)), **axis)

    result = stats.bootstrap(
        tuple(np.arange(len(sample)) for sample in samples),
        of_rows,
        vectorized=vectorized,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return [float(end) for end in result.confidence_interval]
