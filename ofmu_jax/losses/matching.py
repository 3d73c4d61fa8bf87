"""Forgetting with an end: the loss that a model gives to what it has never seen.

Ascent has no maximiser, and bounded losses end at a constant that somebody has to choose. A model
that never saw the forget set would give its answers the loss that it gives to other answers of
their kind that it never saw, and that loss can be measured, without a retrained model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.losses.language import ApplyFn, Batch, token_log_probs

QUANTILES = 129
"""Points at which a distribution of token losses is kept, evenly spaced in probability."""


def loss_quantiles(losses: np.ndarray) -> np.ndarray:
    """The distribution of token losses as its quantiles.

    A model that knows its training set by heart is often sure of a wrong token where it sees a new
    text, so that the greatest are well above log V, the loss of a uniform guess. They are kept: a
    model that never saw the forget set is as sure of wrong tokens there.

    Args:
      losses: (N,) in nats, the losses of the scored tokens of unseen answers under the original
        model.

    Returns:
      (QUANTILES,) float32, from the least to the greatest.

    >>> loss_quantiles(np.array([0.0, 50.0]))[[0, -1]].tolist()
    [0.0, 50.0]
    """
    return np.quantile(losses, np.linspace(0, 1, QUANTILES)).astype(np.float32)


def quantile_matching(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """How far the answers' token losses are below those of unseen answers; to be minimised.

    For an answer of n scored tokens

        m = 1/n sum_i 1/2 max(q((i - 1/2) / n) - l_(i), 0)^2

    with `l_(1) <= ... <= l_(n)` its sorted token losses, and q the quantile function of the losses
    of unseen answers' tokens; the batch's loss is the mean of m over its scored tokens. Without the
    max m is half the squared Wasserstein-2 distance between the two distributions (in one dimension
    the optimal transport is the sorted one; Villani 2003, "Topics in Optimal Transportation",
    theorem 2.18). Tokens that any model of the language would predict are low in the order, and are
    asked for as little as in unseen answers; those that only memory predicts are high in it. Where
    the losses are no lower than those of unseen answers, the loss and its gradient vanish: a
    forgotten state is stationary, and no constant is to be chosen.

    Every answer is held against the distribution by itself. Were all tokens of a batch put in one
    order, a few answers could take all the great losses, and the others stay likely.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored` (B, S); `unseen_quantiles` (Q,), as from `loss_quantiles`.

    Returns:
      A scalar >= 0 in squared nats; 0 for a batch that scores no token.
    """
    log_probs = token_log_probs(apply_fn(params, batch["tokens"]), batch["tokens"])
    scored = batch["scored"][:, 1:]
    lacks = jax.vmap(lack_of_loss, in_axes=(0, None, 0))(
        -log_probs, batch["unseen_quantiles"], scored
    )
    counts = jnp.sum(scored, axis=1)
    return jnp.sum(counts * lacks) / jnp.maximum(jnp.sum(counts), 1)


def lack_of_loss(
    losses: jax.Array, quantiles: jax.Array, scored: jax.Array | None = None
) -> jax.Array:
    """The mean of `1/2 max(q((i - 1/2) / n) - l_(i), 0)^2` over n losses in their order.

    Args:
      losses: of any shape.
      quantiles: (Q,), q at even steps of probability.
      scored: of the shape of `losses`, which of them count; all by default.

    Returns:
      A scalar >= 0; 0 where none counts. The order is a constant of its gradient.
    """
    scored = jnp.ones(losses.shape, bool) if scored is None else scored
    count = jnp.maximum(jnp.sum(scored), 1)
    # What is not scored comes last in the order.
    order = jnp.argsort(jnp.where(scored, jax.lax.stop_gradient(losses), jnp.inf), axis=None)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size)).reshape(scored.shape)
    targets = jnp.interp((rank + 0.5) / count, jnp.linspace(0, 1, quantiles.size), quantiles)
    lack = jnp.maximum(targets - losses, 0.0)
    return jnp.sum(0.5 * jnp.square(lack), where=scored) / count
