"""How evenly a model answers the same question in different words."""

from typing import NamedTuple

import numpy as np


class Variation(NamedTuple):
    """Of T transformations of N questions, each of which need not have all.

    Attributes:
      mean: of the scores of all.
      between: standard deviation of the T mean scores.
      within: the variance over an item's transformations, averaged over items.
    """

    mean: float
    between: float
    within: float


def variation(scores: np.ndarray) -> Variation:
    """Population variance over transformations.

    Args:
      scores: (T, N) with NaN where an item has no such transformation; each has one at least.

    >>> variation(np.array([[0.0, 0.5], [1.0, 0.5]]))
    Variation(mean=0.5, between=0.25, within=0.125)
    """
    return Variation(
        float(np.nanmean(scores)),
        float(np.std(np.nanmean(scores, axis=1))),
        float(np.mean(np.nanvar(scores, axis=0))),
    )
