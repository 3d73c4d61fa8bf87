"""How well an image classifier has forgotten: scores, attacks and plots."""

from ofmu_jax.evals.vision.lira import (
    AttackCurve,
    Estimate,
    attack_accuracy,
    attack_curve,
    attack_metrics,
    logit_confidence,
    tpr_at_fpr,
    u_lira,
)
from ofmu_jax.evals.vision.plots import (
    plot_confusions,
    plot_histograms,
    plot_predictions,
    plot_trade_off,
)
from ofmu_jax.evals.vision.predictions import (
    Histograms,
    accuracy,
    confusion,
    cross_entropies,
    forget_predictions_histogram,
    histograms,
    predict,
    true_probabilities,
)
from ofmu_jax.evals.vision.scores import (
    UnlearningScores,
    average_gap,
    gaps,
    mia_efficacy,
    unlearning_scores,
)
from ofmu_jax.evals.vision.shadows import train_shadows

__all__ = [
    "AttackCurve",
    "Estimate",
    "Histograms",
    "UnlearningScores",
    "accuracy",
    "attack_accuracy",
    "attack_curve",
    "attack_metrics",
    "average_gap",
    "confusion",
    "cross_entropies",
    "forget_predictions_histogram",
    "gaps",
    "histograms",
    "logit_confidence",
    "mia_efficacy",
    "plot_confusions",
    "plot_histograms",
    "plot_predictions",
    "plot_trade_off",
    "predict",
    "tpr_at_fpr",
    "train_shadows",
    "true_probabilities",
    "u_lira",
    "unlearning_scores",
]
