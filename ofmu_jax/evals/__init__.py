"""How well a model has forgotten, and what it still knows."""

from ofmu_jax.evals.directions import direction
from ofmu_jax.evals.generation import Sampling, continue_prompts, filter_logits, generate
from ofmu_jax.evals.membership import (
    gradient_norms,
    membership_auc,
    membership_metrics,
    min_k,
    min_k_plus_plus,
    privleak,
    zlib_loss,
)
from ofmu_jax.evals.memorisation import exact_memorisation, extraction_strength
from ofmu_jax.evals.metrics import (
    ForgetQuality,
    forget_quality,
    forget_truth_ratio_score,
    model_utility,
    normalised_probability,
    probability,
    retain_truth_ratio_score,
    rouge,
    truth_ratio,
)
from ofmu_jax.evals.multiple_choice import multiple_choice_metrics
from ofmu_jax.evals.muse import muse_metrics
from ofmu_jax.evals.retained import check_same_items, check_same_results, truth_ratios
from ofmu_jax.evals.scoring import ScoredRows, TokenScores, answer_losses, score_tokens
from ofmu_jax.evals.statistics import bootstrap_interval
from ofmu_jax.evals.subject import Subject, params_digest
from ofmu_jax.evals.suite import Cost, Entry, Metric, Results, run_suite, select, summary
from ofmu_jax.evals.tofu import evaluate_tofu, forget_quality_entry, tofu_metrics

__all__ = [
    "Cost",
    "Entry",
    "ForgetQuality",
    "Metric",
    "Results",
    "Sampling",
    "ScoredRows",
    "Subject",
    "TokenScores",
    "answer_losses",
    "bootstrap_interval",
    "check_same_items",
    "check_same_results",
    "continue_prompts",
    "direction",
    "evaluate_tofu",
    "exact_memorisation",
    "extraction_strength",
    "filter_logits",
    "forget_quality",
    "forget_quality_entry",
    "forget_truth_ratio_score",
    "generate",
    "gradient_norms",
    "membership_auc",
    "membership_metrics",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "multiple_choice_metrics",
    "muse_metrics",
    "normalised_probability",
    "params_digest",
    "privleak",
    "probability",
    "retain_truth_ratio_score",
    "rouge",
    "run_suite",
    "score_tokens",
    "select",
    "summary",
    "tofu_metrics",
    "truth_ratio",
    "truth_ratios",
    "zlib_loss",
]
