"""What a model makes of given tokens: losses, and statistics of each token."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.data.encoding import Encoded
from ofmu_jax.errors import InputError
from ofmu_jax.evals.batching import length_batches
from ofmu_jax.evals.generation import argmax
from ofmu_jax.evals.subject import Subject
from ofmu_jax.losses.language import Batch, average_loss_per_item, token_log_probs
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, forward

Program = Callable[[DecoderConfig, Params, Batch], Any]


class TokenScores(NamedTuple):
    """What the model makes of the scored tokens of N rows, of S tokens with padding.

    Attributes:
      scored: (N, S) bool, which entries of the others have a meaning.
      log_prob: (N, S) float64, of the token, in nats.
      correct: (N, S) bool, whether it is the most probable one.
      mean: (N, S) float64, of the log-probabilities of all tokens, under the model.
      variance: (N, S) float64, of the same.
    """

    scored: np.ndarray
    log_prob: np.ndarray
    correct: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def loss(self) -> np.ndarray:
        """(N,) float64, mean negative log-probability of a row's scored tokens."""
        return -np.sum(self.log_prob, axis=1, where=self.scored) / self.scored.sum(axis=1)

    @property
    def before_last(self) -> np.ndarray:
        """(N, S) bool, the scored tokens but the last of each row, which ends an answer.

        Raises:
          InputError: a row has no other.
        """
        kept = self.scored & (self.scored.cumsum(axis=1) < self.scored.sum(axis=1, keepdims=True))
        empty = np.flatnonzero(~kept.any(axis=1))
        if empty.size:
            raise InputError(f"item {empty[0]} has fewer than 2 scored tokens; expected more")
        return kept


class ScoredRows:
    """A named set of rows, and what a model makes of them, computed when it is first asked for.

    Attributes:
      subject: the model.
      name: what errors call the items.
      encoded: N rows.
    """

    def __init__(self, subject: Subject, name: str, encoded: Encoded) -> None:
        self.subject, self.name, self.encoded = subject, name, encoded

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """(N,) as `answer_losses`, checked by `check_finite`."""
        losses = answer_losses(self.subject, self.encoded)
        check_finite(losses, self.name)
        return losses

    @functools.cached_property
    def tokens(self) -> TokenScores:
        """As `score_tokens`, their losses checked by `check_finite`."""
        scores = score_tokens(self.subject, self.encoded)
        check_finite(scores.loss, self.name)
        return scores


def answer_losses(subject: Subject, encoded: Encoded) -> np.ndarray:
    """Mean cross-entropy of each row's scored tokens.

    Args:
      subject: the model.
      encoded: N rows, such as questions with answers.

    Returns:
      (N,) float64, in nats per token.

    Raises:
      InputError: a row exceeds `max_position_embeddings`.
    """
    return run_rows(subject, encoded, _losses, "score answers").astype(np.float64)


def score_tokens(subject: Subject, encoded: Encoded) -> TokenScores:
    """Statistics of each scored token.

    Args:
      subject: the model.
      encoded: N rows, such as questions with answers.

    Returns:
      The statistics; only they leave the device, never the logits.

    Raises:
      InputError: a row exceeds `max_position_embeddings`.
    """
    statistics = run_rows(subject, encoded, _statistics, "score tokens")
    log_prob, correct, mean, variance = np.moveaxis(statistics.astype(np.float64), 1, 0)
    width = statistics.shape[-1]
    return TokenScores(encoded.scored[:, :width], log_prob, correct > 0, mean, variance)


def run_rows(
    subject: Subject, encoded: Encoded, program: Program, label: str, multiple: int = 32
) -> np.ndarray:
    """Runs a program over all rows, in batches of similar lengths, and brings the results home.

    Args:
      subject: the model.
      encoded: N rows.
      program: a jitted function of the model's config, parameters and a batch, that returns an
        array (B,) or (B, ..., W), W the width of the batch.
      label: what the progress bar says.
      multiple: W is a multiple of this, or as much as the model or the rows have.

    Returns:
      (N,) or (N, ..., S), zero where a batch was narrower; rows in the order of `encoded`.

    Raises:
      InputError: a row exceeds `max_position_embeddings`.
    """
    limit = subject.config.max_position_embeddings
    longest = int(encoded.lengths.argmax())
    if encoded.lengths[longest] > limit:
        raise InputError(
            f"row {longest} has {encoded.lengths[longest]} tokens, the question or prompt "
            f"included; expected at most {limit}, the model's max_position_embeddings"
        )
    pending = []
    for rows, width in length_batches(encoded.lengths, subject.rows_of_width, label, multiple):
        width = min(width, limit, encoded.tokens.shape[1])
        batch = {"tokens": encoded.tokens[rows, :width], "scored": encoded.scored[rows, :width]}
        values = program(subject.config, subject.params, subject.place(batch))
        # Waiting for each batch keeps the progress bar honest, and costs no transfer.
        pending.append((rows, jax.block_until_ready(values)))
    fetched = jax.device_get(pending)
    first = fetched[0][1]
    shape: tuple[int, ...] = (len(encoded.tokens),)
    if first.ndim > 1:
        shape += (*first.shape[1:-1], min(limit, encoded.tokens.shape[1]))
    result = np.zeros(shape, first.dtype)
    for rows, values in fetched:
        if values.ndim > 1:
            result[rows, ..., : values.shape[-1]] = values
        else:
            result[rows] = values
    return result


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuses losses (N,) or (N, J) of which one is not finite.

    Raises:
      InputError: naming the first such item.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise InputError(
            f"the model's loss on {name} item {bad[0]} is not finite; expected finite losses, but "
            f"{bad.size} of {len(values)} items have none"
        )


@functools.partial(jax.jit, static_argnums=0)
def _losses(config: DecoderConfig, params: Params, batch: Batch) -> jax.Array:
    return average_loss_per_item(functools.partial(forward, config), params, batch)


@functools.partial(jax.jit, static_argnums=0)
def _statistics(config: DecoderConfig, params: Params, batch: Batch) -> jax.Array:
    """(B, 4, W): log-probability, whether right, and the two moments, at each token."""
    tokens = batch["tokens"]
    logits = forward(config, params, tokens)
    log_prob = token_log_probs(logits, tokens)
    # Moments of log p under p, about the greatest logit, lest squares lose digits.
    greatest = jnp.max(logits, axis=-1, keepdims=True)
    shifted = logits - greatest
    weights = jnp.exp(shifted)
    total = jnp.sum(weights, axis=-1)
    first = jnp.sum(weights * shifted, axis=-1) / total
    second = jnp.sum(weights * jnp.square(shifted), axis=-1) / total
    mean, variance = first - jnp.log(total), second - jnp.square(first)
    correct = argmax(logits)[:, :-1] == tokens[:, 1:]
    rows = (log_prob, correct.astype(log_prob.dtype), mean[:, :-1], variance[:, :-1])
    return jnp.pad(jnp.stack(rows, axis=1), ((0, 0), (0, 0), (1, 0)))
