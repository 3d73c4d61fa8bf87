"""Losses to learn and to unlearn with."""

from ofmu_jax.losses.language import (
    ApplyFn,
    Batch,
    average_loss_per_item,
    cross_entropy,
    npo,
    sequence_log_prob,
    token_log_probs,
)

__all__ = [
    "ApplyFn",
    "Batch",
    "average_loss_per_item",
    "cross_entropy",
    "npo",
    "sequence_log_prob",
    "token_log_probs",
]
