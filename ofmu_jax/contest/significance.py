"""What a difference between seeds is worth: t intervals, the paired t-test, Holm's adjustment."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

from ofmu_jax.errors import InputError

K = TypeVar("K")


class Interval(NamedTuple):
    """A mean and the interval that holds it at some level of confidence."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean and Student's t interval of it, which takes the values to be normal.

    Args:
      values: one per seed, or whatever was drawn independently.
      level: confidence, between 0 and 1.

    Returns:
      The mean and both ends. One value says nothing of the spread: its ends are NaN. Values that
      are all equal give an interval of no length.

    Raises:
      InputError: there are no values, or the level is not between 0 and 1.

    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    if not len(values):
        raise InputError("a mean needs at least one value, got none")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    margin = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * _standard_error(values)
    return Interval(mean, mean - margin, mean + margin)


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test (Student, 1908).

    Args:
      a: values of one method.
      b: those of another with the same seeds, in the same order.

    Returns:
      The p-value. Where all differences are equal, the test's limit: 1 if they are 0, else 0. NaN
      for fewer than two pairs.

    Raises:
      InputError: the lengths differ.

    >>> round(paired_p([3.0, 4.0, 5.0], [1.0, 1.0, 1.0]), 4)
    0.0351
    """
    if len(a) != len(b):
        raise InputError(f"a paired test needs as many values of each, got {len(a)} and {len(b)}")
    if len(a) < 2:
        return math.nan
    differences = np.subtract(a, b)
    mean, error = float(np.mean(differences)), _standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(a) - 1))


def _standard_error(values: Sequence[float] | np.ndarray) -> float:
    # numpy's deviation of equal values can be a rounding error away from 0.
    if np.ptp(values) == 0:
        return 0.0
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down adjustment of p-values for how many there are (Holm, 1979).

    To reject where the adjusted value is at most 5 % is wrong about any of the hypotheses with a
    probability of at most 5 %, however they depend on each other.

    Args:
      p_values: by name; those that are NaN stay so and do not count.

    Returns:
      The adjusted values, in the order given; never less than the raw ones, nor more than 1.

    Raises:
      InputError: a value is not between 0 and 1.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    for name, p in p_values.items():
        if not (math.isnan(p) or 0 <= p <= 1):
            raise InputError(f"a p-value must be between 0 and 1, got {p} for {name}")
    tested = {name: p for name, p in p_values.items() if not math.isnan(p)}
    adjusted = dict.fromkeys(p_values, math.nan)
    largest = 0.0
    for rank, name in enumerate(sorted(tested, key=tested.__getitem__)):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[name]))
        adjusted[name] = largest
    return adjusted


def disjoint(a: Interval, b: Interval) -> bool:
    """Whether two intervals have no point in common; False if an end is NaN.

    >>> disjoint(Interval(1.0, 0.0, 2.0), Interval(4.0, 3.0, 5.0))
    True
    """
    return a.high < b.low or b.high < a.low
