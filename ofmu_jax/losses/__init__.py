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
from ofmu_jax.losses.representation import (
    Network,
    misdirection,
    random_direction,
    state_distance,
    with_reference_states,
)
from ofmu_jax.losses.unlearning import (
    counterfactual_cross_entropy,
    logit_margin,
    simnpo,
    weighted_ascent,
)

__all__ = [
    "ApplyFn",
    "Batch",
    "Network",
    "average_loss_per_item",
    "counterfactual_cross_entropy",
    "cross_entropy",
    "dpo",
    "kl_divergence",
    "logit_margin",
    "misdirection",
    "npo",
    "random_direction",
    "sequence_log_prob",
    "simnpo",
    "state_distance",
    "token_log_probs",
    "undial",
    "weighted_ascent",
    "with_reference_logits",
    "with_reference_states",
]
