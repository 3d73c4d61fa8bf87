"""Attacks that try to bring forgotten knowledge back, and what they recover.

Attacks on weights map parameters to parameters; attacks on questions map items to questions;
`measures` and `probing` say what a model still knows, `recovery` how much of it came back.
"""

from ofmu_jax.robustness.interpolation import interpolated
from ofmu_jax.robustness.measures import (
    answer_probability,
    answer_recall,
    candidates,
    chosen_by_output,
)
from ofmu_jax.robustness.noise import noisy
from ofmu_jax.robustness.probing import chosen_by_probe, mean_states, ridge_weights
from ofmu_jax.robustness.pruning import keep_largest, pruned
from ofmu_jax.robustness.questions import (
    FORMATS,
    PREFIX,
    Asked,
    as_trained,
    check_plain,
    encode_asked,
    few_shot,
    formats,
    paraphrased,
    with_prefix,
)
from ofmu_jax.robustness.recovery import LEAST_GAP, Recovery, Scores, ratio, recovery
from ofmu_jax.robustness.relearning import relearn, split_items
from ofmu_jax.robustness.rounding import round_matrix, rounded
from ofmu_jax.robustness.variation import Variation, variation

__all__ = [
    "FORMATS",
    "LEAST_GAP",
    "PREFIX",
    "Asked",
    "Recovery",
    "Scores",
    "Variation",
    "answer_probability",
    "answer_recall",
    "as_trained",
    "candidates",
    "check_plain",
    "chosen_by_output",
    "chosen_by_probe",
    "encode_asked",
    "few_shot",
    "formats",
    "interpolated",
    "keep_largest",
    "mean_states",
    "noisy",
    "paraphrased",
    "pruned",
    "ratio",
    "recovery",
    "relearn",
    "ridge_weights",
    "round_matrix",
    "rounded",
    "split_items",
    "variation",
    "with_prefix",
]
