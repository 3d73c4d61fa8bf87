"""Losses to learn and to unlearn with."""

from ofmu_jax.losses.distillation import kl_divergence, undial, with_reference_logits
from ofmu_jax.losses.language import (
    ApplyFn,
    Batch,
    average_loss_per_item,
    cross_entropy,
    npo,
    sequence_log_prob,
    token_log_probs,
)
from ofmu_jax.losses.preference import dpo
from ofmu_jax.losses.unlearning import counterfactual_cross_entropy, simnpo, weighted_ascent

__all__ = [
    "ApplyFn",
    "Batch",
    "average_loss_per_item",
    "counterfactual_cross_entropy",
    "cross_entropy",
    "dpo",
    "kl_divergence",
    "npo",
    "sequence_log_prob",
    "simnpo",
    "token_log_probs",
    "undial",
    "weighted_ascent",
    "with_reference_logits",
]
