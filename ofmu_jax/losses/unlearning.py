"""Forget losses of language models that need no second model. All are to be minimised.

They take `apply_fn`, parameters and a batch as `losses.language` has them. Weights and targets that
a loss takes from the model itself are constants of its gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.losses.checks import is_known
from ofmu_jax.losses.language import ApplyFn, Batch, average_loss_per_item, token_log_probs


def simnpo(
    apply_fn: ApplyFn, params: Any, batch: Batch, beta: float, delta: float = 0.0
) -> jax.Array:
    """Simple NPO (Fan et al., 2024, arXiv:2410.07163): NPO by length, without a reference model.

    `-(2 / beta) mean log sigmoid(beta (NLL - delta))`, NLL the mean over an answer's tokens.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).
      beta: inverse temperature, > 0.
      delta: margin, in nats per token, beyond which an item counts as forgotten.

    Returns:
      A scalar, >= 0.

    Raises:
      InputError: `beta` is not positive.
    """
    if is_known(beta) and not beta > 0:
        raise InputError(f"simnpo beta is {beta}; expected > 0")
    margin = average_loss_per_item(apply_fn, params, batch) - delta
    return -2.0 / beta * jnp.mean(jax.nn.log_sigmoid(beta * margin))


def weighted_ascent(
    apply_fn: ApplyFn, params: Any, batch: Batch, likelihood: float, unlikelihood: float = 0.0
) -> jax.Array:
    """Gradient ascent in which tokens count by how well they are known.

    `-mean p^a (1 - p)^b CE` over the scored tokens, with p the probability of the token, a constant
    of the gradient. With b = 0 it is weighted gradient ascent, WGA (Wang et al., 2025,
    arXiv:2502.19301), with both SatImp (Yang et al., 2025, arXiv:2505.11953): a spares what is
    forgotten already, b spares what is known with certainty.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).
      likelihood: the exponent a, >= 0.
      unlikelihood: the exponent b, >= 0.

    Returns:
      A scalar, <= 0; 0 for a batch that scores no token.

    Raises:
      InputError: an exponent is negative.
    """
    known = is_known(likelihood, unlikelihood)
    if known and not (likelihood >= 0 and unlikelihood >= 0):
        raise InputError(f"exponents are {likelihood} and {unlikelihood}; expected >= 0")
    log_probs = token_log_probs(apply_fn(params, batch["tokens"]), batch["tokens"])
    scored = batch["scored"][:, 1:]
    constant = jax.lax.stop_gradient(log_probs)
    # 1 - p by expm1, which is exact where p is near 1; powers by logarithms would have 0 log 0.
    weights = jnp.exp(likelihood * constant) * jnp.power(-jnp.expm1(constant), unlikelihood)
    return jnp.sum(weights * log_probs, where=scored) / jnp.maximum(jnp.sum(scored), 1)


def counterfactual_cross_entropy(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Cross-entropy to the model's own distribution without the true token (CEU, Yang, 2025,
    arXiv:2503.01224).

    The target is the softmax of the logits with the true token's at minus infinity. Unlike ascent
    it has a minimum, at which the token is improbable and the others keep their proportions.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).

    Returns:
      A scalar, the mean over the scored tokens; 0 for a batch that scores none.
    """
    logits = apply_fn(params, batch["tokens"])
    true = jnp.arange(logits.shape[-1]) == jnp.roll(batch["tokens"], -1, axis=1)[..., None]
    target = jax.nn.softmax(jnp.where(true, -jnp.inf, jax.lax.stop_gradient(logits)), axis=-1)
    losses = -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)[:, :-1]
    scored = batch["scored"][:, 1:]
    return jnp.sum(losses, where=scored) / jnp.maximum(jnp.sum(scored), 1)


def logit_margin(apply_fn: ApplyFn, params: Any, batch: Batch) -> jax.Array:
    """Squared margin of the greatest logit over the mean one (PDU, Entesari et al., 2025,
    arXiv:2506.05314).

    `mean (max_v logit_v - mean_v logit_v)^2`, which is 0 where the next token is uniform over the
    vocabulary. It knows no true token, and its gradient does not fade as a softmax saturates.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).

    Returns:
      A scalar, >= 0, the mean over the scored tokens (the authors have it over all tokens, those of
      prompts and padding included); 0 for a batch that scores none.
    """
    logits = apply_fn(params, batch["tokens"])
    margins = jnp.square(jnp.max(logits, axis=-1) - jnp.mean(logits, axis=-1))[:, :-1]
    scored = batch["scored"][:, 1:]
    return jnp.sum(margins, where=scored) / jnp.maximum(jnp.sum(scored), 1)
