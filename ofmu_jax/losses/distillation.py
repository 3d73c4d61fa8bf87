"""Losses towards the next-token distributions of the model before unlearning.

Their batches hold `reference_logits` (B, S, V) beside what `losses.language` needs; losses are
minimised, and constant in the reference.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.losses.language import ApplyFn, Batch


def with_reference_logits(apply_fn: ApplyFn, reference: Any, batch: Batch) -> dict[str, jax.Array]:
    """A batch with the logits that the reference model gives to its tokens.

    Args:
      apply_fn: maps parameters and tokens to logits.
      reference: the parameters of the reference model.
      batch: `tokens` (B, S), and anything else.
    """
    logits = jax.lax.stop_gradient(apply_fn(reference, batch["tokens"]))
    return {**batch, "reference_logits": logits}


def undial(apply_fn: ApplyFn, params: Any, batch: Batch, beta: float) -> jax.Array:
    """Self-distillation with adjusted logits (UNDIAL, Dong et al., 2024, arXiv:2402.10052).

    Cross-entropy to the softmax of the reference logits, that of the true token less `beta`: a
    forget loss whose minimum the model can reach without losing the rest of its distribution.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored` (B, S), `reference_logits` (B, S, V).
      beta: by how much the true token's logit is lowered.

    Returns:
      A scalar, the mean over the scored tokens; 0 for a batch that scores none.
    """
    reference = batch["reference_logits"]
    true = jnp.arange(reference.shape[-1]) == jnp.roll(batch["tokens"], -1, axis=1)[..., None]
    target = jax.nn.softmax(reference - beta * true, axis=-1)
    log_probs = jax.nn.log_softmax(apply_fn(params, batch["tokens"]), axis=-1)
    return _scored_mean(-jnp.sum(target * log_probs, axis=-1), batch)


def kl_divergence(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """KL(reference || model) of the next token: a retain loss that asks for no change at all.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored` (B, S), `reference_logits` (B, S, V).

    Returns:
      A scalar >= 0 in nats, the mean over the scored tokens (open-unlearning has it over all
      tokens, those of prompts and padding included); 0 for a batch that scores none.
    """
    reference = jax.nn.log_softmax(batch["reference_logits"], axis=-1)
    log_probs = jax.nn.log_softmax(apply_fn(params, batch["tokens"]), axis=-1)
    return _scored_mean(jnp.sum(jnp.exp(reference) * (reference - log_probs), axis=-1), batch)


def _scored_mean(values: jax.Array, batch: Batch) -> jax.Array:
    """Mean of (B, S) values, each at the place that predicts a token, over the scored tokens."""
    scored = batch["scored"][:, 1:]
    return jnp.sum(values[:, :-1], where=scored) / jnp.maximum(jnp.sum(scored), 1)
