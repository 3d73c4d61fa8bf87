"""Losses of a language model on the scored tokens of a batch.

A batch is a mapping with `tokens` (B, S) int32 and `scored` (B, S) bool; `scored[b, t]` says that
token t is a label, to be predicted from the tokens before it. The first token never is one. All
functions take any `apply_fn(params, tokens) -> (B, S, V) logits` and are pure and differentiable.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.losses.checks import is_known

ApplyFn: TypeAlias = Callable[[Any, jax.Array], jax.Array]
Batch: TypeAlias = Mapping[str, jax.Array]


def token_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Log-probability of each token but the first, given those before it.

    Args:
      logits: (B, S, V); `logits[:, t]` predicts token t + 1.
      tokens: (B, S) int32.

    Returns:
      (B, S - 1) in the type of `logits`, in nats.

    >>> token_log_probs(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])).round(4)
    Array([[-1.3863]], dtype=float32)
    """
    # The sum over a mask fuses, and so does its gradient; that of a gather is a scatter. The last
    # position is dropped at the end, where that copies no (B, S, V) array.
    following = jnp.roll(tokens, -1, axis=1)[..., None]
    chosen = jnp.sum(logits, axis=-1, where=jnp.arange(logits.shape[-1]) == following)
    return (chosen - jax.nn.logsumexp(logits, axis=-1))[:, :-1]


def _scored_log_probs(apply_fn: ApplyFn, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Per row, the sum of log-probabilities over scored tokens and their number, both (B,)."""
    log_probs = token_log_probs(apply_fn(params, batch["tokens"]), batch["tokens"])
    scored = batch["scored"][:, 1:]
    return jnp.sum(log_probs, axis=1, where=scored), jnp.sum(scored, axis=1)


def scored_tokens(batch: Batch) -> jax.Array:
    """How many tokens of a batch are labels, an integer scalar."""
    return jnp.sum(batch["scored"][:, 1:])


def cross_entropy(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Mean cross-entropy over all scored tokens of the batch.

    Long answers weigh more than short ones, as in ordinary fine-tuning. A batch that scores no
    token has loss 0 and gradient 0: it asks for nothing, so a step on it changes nothing.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).

    Returns:
      A scalar, in nats per token.
    """
    log_probs, counts = _scored_log_probs(apply_fn, params, batch)
    return -jnp.sum(log_probs) / jnp.maximum(jnp.sum(counts), 1)


def average_loss_per_item(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Mean cross-entropy over the scored tokens of each row.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).

    Returns:
      (B,), in nats per token; 0 for a row that scores no token.
    """
    log_probs, counts = _scored_log_probs(apply_fn, params, batch)
    return -log_probs / jnp.maximum(counts, 1)


def sequence_log_prob(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Log-probability of all scored tokens of each row together.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).

    Returns:
      (B,), in nats; 0 for a row that scores no token.
    """
    return _scored_log_probs(apply_fn, params, batch)[0]


def npo(
    apply_fn: ApplyFn, params: Any, batch: Batch, reference_log_prob: jax.Array, beta: float
) -> jax.Array:
    """Negative preference optimisation (Zhang et al., 2024, arXiv:2404.05868, eq. 3).

    `-(2 / beta) mean log sigmoid(-beta (s - s_ref))`, with s the answer's log-probability. Its
    gradient is that of gradient ascent with each item weighted by
    `2 sigmoid(beta (s - s_ref))`, which vanishes once the item is forgotten.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).
      reference_log_prob: (B,), `sequence_log_prob` under the model before unlearning.
      beta: inverse temperature, > 0.

    Returns:
      A scalar.

    Raises:
      InputError: `beta` is not positive.
    """
    if is_known(beta) and not beta > 0:
        raise InputError(f"npo beta is {beta}; expected > 0")
    gain = sequence_log_prob(apply_fn, params, batch) - reference_log_prob
    return -2.0 / beta * jnp.mean(jax.nn.log_sigmoid(-beta * gain))
