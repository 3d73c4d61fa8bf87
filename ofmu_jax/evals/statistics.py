"""How far a figure would move with other items of the same kind."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ofmu_jax.errors import InputError

LEVEL = 0.95
RESAMPLES = 2000


def bootstrap_interval(
    statistic: Callable[..., Any],
    *samples: np.ndarray,
    groups: Sequence[np.ndarray | None] = (),
    vectorized: bool = False,
) -> list[float] | None:
    """Percentile bootstrap interval of 95 % over items (Efron and Tibshirani, 1993, ch. 13).

    It says how the choice of items matters, not what another seed of training would give. The
    resamples are the same every time. Items that are not independent, such as those on one
    author, belong into a group: groups are then what is drawn, each as a whole (the cluster
    bootstrap; Davison and Hinkley, 1997, section 3.8). With few groups, say under ten, intervals
    are still somewhat too narrow.

    Args:
      statistic: from the samples, in their order, to a number.
      *samples: arrays (N, ...), (M, ...) whose first axis is items; each is resampled by itself,
        so what was measured on the same items belongs into one array.
      groups: for each sample (N,), to which group its items belong; None where every item is one
        by itself, as they all are by default.
      vectorized: `statistic` takes `axis`, as `np.mean` does, and the samples have one axis: all
        resamples are then worked out at once, to the same numbers.

    Returns:
      The lower and the upper end; None where a sample is a single group, which says nothing of how
      others would be.

    Raises:
      InputError: there is not one label for each item.

    >>> low, high = bootstrap_interval(np.mean, np.arange(100.0), vectorized=True)
    >>> low < 49.5 < high, round(high - low, 1)
    (True, 11.2)
    >>> low, high = bootstrap_interval(
    ...     np.mean, np.arange(100.0), groups=[np.arange(100) // 10], vectorized=True
    ... )
    >>> round(high - low, 1)
    36.0
    """
    members = [
        _members(sample, labels)
        for sample, labels in zip(samples, groups or [None] * len(samples), strict=True)
    ]
    if min(map(len, members)) < 2:
        return None

    # Of indices, so that a sample may have further axes.
    def of_groups(*drawn: np.ndarray, **axis: int) -> Any:
        rows = (_rows(of, which) for of, which in zip(members, drawn, strict=True))
        return statistic(*(s[r] for s, r in zip(samples, rows, strict=True)), **axis)

    result = stats.bootstrap(
        tuple(np.arange(len(of)) for of in members),
        of_groups,
        # Resamples of groups of unequal sizes are of unequal sizes.
        vectorized=vectorized and all(isinstance(of, np.ndarray) for of in members),
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return [float(end) for end in result.confidence_interval]


def _members(sample: np.ndarray, labels: np.ndarray | None) -> np.ndarray | list[np.ndarray]:
    """The rows of each group: (groups, size) if all are of one size, else a list."""
    if labels is None:
        return np.arange(len(sample))[:, None]
    if len(labels) != len(sample):
        raise InputError(f"groups: {len(labels)} labels for {len(sample)} items; expected one each")
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else rows


def _rows(members: np.ndarray | list[np.ndarray], drawn: np.ndarray) -> np.ndarray:
    """Of the drawn groups (..., groups) all rows, (..., rows)."""
    if isinstance(members, list):
        return np.concatenate([members[group] for group in drawn])
    return members[drawn].reshape(*drawn.shape[:-1], -1)
