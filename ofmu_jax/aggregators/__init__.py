"""Update rules of multi-objective optimisation, as optax Aggregators.

Each takes the gradients of two losses to be minimised on a leading axis, in the order (retain,
forget), and returns one direction to descend. Imports nothing of ours but `bilevel`.
"""

from collections.abc import Callable

from optax.experimental import aggregating

from ofmu_jax.aggregators.blur import blur
from ofmu_jax.aggregators.fitted_rate import FittedRateState, scale_by_fitted_rate
from ofmu_jax.aggregators.linear import linear_combination, weighted_sum
from ofmu_jax.aggregators.min_norm import mgda
from ofmu_jax.aggregators.normalised import munba, ngdiff
from ofmu_jax.aggregators.projections import pcgrad, projection

UPDATE_RULES: dict[str, Callable[[], aggregating.Aggregator]] = {
    "sum": weighted_sum,
    "pcgrad": pcgrad,
    "mgda": mgda,
    "projection": projection,
    "ngdiff": ngdiff,
    "munba": munba,
    "blur": blur,
}
"""The rules by name, each with its defaults."""

__all__ = [
    "UPDATE_RULES",
    "FittedRateState",
    "blur",
    "linear_combination",
    "mgda",
    "munba",
    "ngdiff",
    "pcgrad",
    "projection",
    "scale_by_fitted_rate",
    "weighted_sum",
]
