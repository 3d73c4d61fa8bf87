"""The bi-level core: OFMU's objectives, derivatives and optax transformations.

Pure functions of any parameter pytree; imports nothing but jax and optax.
"""

from ofmu_jax.bilevel import quadratics
from ofmu_jax.bilevel.curvature import (
    HVP_MODES,
    Secant,
    directional_derivative,
    finite_difference_step,
    secant,
)
from ofmu_jax.bilevel.gradients import (
    LossFn,
    Objective,
    Params,
    StackedLoss,
    cosines,
    gram,
    inner_products,
    norms,
    value_and_gradients,
)
from ofmu_jax.bilevel.inner import MaximizeInnerState, maximize_inner
from ofmu_jax.bilevel.masking import with_frozen
from ofmu_jax.bilevel.microbatches import accumulated, split_rows
from ofmu_jax.bilevel.objectives import (
    SIMILARITIES,
    PhiTerms,
    Similarity,
    grad_phi,
    penalised,
    phi,
)
from ofmu_jax.bilevel.penalties import (
    PenaltyState,
    add_stationarity_penalty,
    add_value_gap_penalty,
)
from ofmu_jax.bilevel.safety import SkipNonfiniteState, skip_nonfinite
from ofmu_jax.bilevel.schedules import constant, couple_to_rho, geometric, polynomial
from ofmu_jax.bilevel.step_sizes import polyak_bounded
from ofmu_jax.bilevel.two_loop import PENALTIES, VARIANTS, Diagnostics, OfmuState, ofmu

__all__ = [
    "HVP_MODES",
    "PENALTIES",
    "SIMILARITIES",
    "VARIANTS",
    "Diagnostics",
    "LossFn",
    "MaximizeInnerState",
    "Objective",
    "OfmuState",
    "Params",
    "PenaltyState",
    "PhiTerms",
    "Secant",
    "Similarity",
    "SkipNonfiniteState",
    "StackedLoss",
    "accumulated",
    "add_stationarity_penalty",
    "add_value_gap_penalty",
    "constant",
    "cosines",
    "couple_to_rho",
    "directional_derivative",
    "finite_difference_step",
    "geometric",
    "grad_phi",
    "gram",
    "inner_products",
    "maximize_inner",
    "norms",
    "ofmu",
    "penalised",
    "phi",
    "polyak_bounded",
    "polynomial",
    "quadratics",
    "secant",
    "skip_nonfinite",
    "split_rows",
    "value_and_gradients",
    "with_frozen",
]
