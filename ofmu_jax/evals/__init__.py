"""How well a model has forgotten, and what it still knows."""

from ofmu_jax.evals.generation import Sampling, filter_logits, generate
from ofmu_jax.evals.metrics import (
    ForgetQuality,
    forget_quality,
    forget_truth_ratio_score,
    model_utility,
    normalised_probability,
    probability,
    retain_truth_ratio_score,
    rouge_l_recall,
    truth_ratio,
)
from ofmu_jax.evals.tofu import evaluate_tofu, item_losses, summary

__all__ = [
    "ForgetQuality",
    "Sampling",
    "evaluate_tofu",
    "filter_logits",
    "forget_quality",
    "forget_truth_ratio_score",
    "generate",
    "item_losses",
    "model_utility",
    "normalised_probability",
    "probability",
    "retain_truth_ratio_score",
    "rouge_l_recall",
    "summary",
    "truth_ratio",
]
