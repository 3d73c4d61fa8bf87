"""Losses on hidden states: the output of one block, before any norm, counted from 0.

A token's state is the one at its own place, in which the model has read it. Where a reference is
asked for, batches hold `reference_states` (B, S, E) beside what `losses.language` needs; losses are
minimised, and constant in the reference.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import ApplyFn, Batch


class Network(Protocol):
    """An `ApplyFn` that also gives the hidden states on the way to its logits."""

    def __call__(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Logits (B, S, V) of tokens (B, S)."""

    def hidden_states(self, params: Any, tokens: jax.Array, layer: int) -> jax.Array:
        """The output (B, S, E) of block `layer`, counted from 0."""


def as_network(apply_fn: ApplyFn | Network) -> Network:
    """`apply_fn` itself, if it gives hidden states.

    Raises:
      InputError: it does not.
    """
    if not callable(getattr(apply_fn, "hidden_states", None)):
        raise InputError(
            f"{apply_fn!r} gives no hidden states; expected a method "
            "hidden_states(params, tokens, layer), as ofmu_jax.models.Network has"
        )
    return apply_fn  # type: ignore[return-value]


def with_reference_states(
    network: Network, reference: Any, batch: Batch, layer: int
) -> dict[str, jax.Array]:
    """A batch with the hidden states that the reference model gives to its tokens.

    Args:
      network: maps parameters and tokens to hidden states.
      reference: the parameters of the reference model.
      batch: `tokens` (B, S), and anything else.
      layer: the block, counted from 0.
    """
    states = jax.lax.stop_gradient(network.hidden_states(reference, batch["tokens"], layer))
    return {**batch, "reference_states": states}


def random_direction(seed: int, size: int) -> jax.Array:
    """A vector (E,) of length 1, uniform in [0, 1) before it is normalised, in float32.

    >>> random_direction(0, 3).round(2).tolist() == random_direction(0, 3).round(2).tolist()
    True
    """
    drawn = jax.random.uniform(jax.random.key(seed), (size,), jnp.float32)
    return drawn / jnp.linalg.norm(drawn)


def misdirection(
    network: Network, params: Any, batch: Batch, layer: int, steering: float, seed: int
) -> jax.Array:
    """Distance of the hidden states from one random vector: the forget loss of RMU (Li et al.,
    2024, arXiv:2403.03218).

    The mean over the scored tokens and the E features of `(h - steering u)^2`, with h the state of
    the token after block `layer`, and u the unit vector of `random_direction`, the same for every
    token and step.

    Args:
      network: maps parameters and tokens to hidden states.
      params: the model's parameters.
      batch: `tokens` and `scored`, both (B, S).
      layer: the block, counted from 0.
      steering: the length c of the vector.
      seed: of the vector.

    Returns:
      A scalar, >= 0 (open-unlearning means over each row first); 0 for a batch that scores none.
    """
    states = network.hidden_states(params, batch["tokens"], layer)
    return _distance(states, steering * random_direction(seed, states.shape[-1]), batch)


def state_distance(network: Network, params: Any, batch: Batch, layer: int) -> jax.Array:
    """Distance of the hidden states from the reference model's: the retain loss of RMU.

    The mean over the scored tokens and the E features of `(h - h_ref)^2`.

    Args:
      network: maps parameters and tokens to hidden states.
      params: the model's parameters.
      batch: `tokens` and `scored` (B, S), `reference_states` (B, S, E).
      layer: the block, counted from 0, the one of `reference_states`.

    Returns:
      A scalar, >= 0; 0 for a batch that scores no token.
    """
    states = network.hidden_states(params, batch["tokens"], layer)
    return _distance(states, batch["reference_states"], batch)


def _distance(states: jax.Array, target: jax.Array, batch: Batch) -> jax.Array:
    """Mean square of (B, S, E) differences, in float32 at least, over the scored tokens."""
    wide = states.astype(jnp.promote_types(states.dtype, jnp.float32))
    squares = jnp.mean(jnp.square(wide - target), axis=-1)[:, 1:]
    scored = batch["scored"][:, 1:]
    return jnp.sum(squares, where=scored) / jnp.maximum(jnp.sum(scored), 1)
