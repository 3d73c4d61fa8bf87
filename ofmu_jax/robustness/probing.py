"""Linear probes: do hidden states tell the right answer from wrong ones, whatever the output says?

A probe learns on retained items what the states of true answers look like and is asked about
forgotten ones (in the manner of Azaria and Mitchell, 2023, arXiv:2304.13734).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.data import Encoded, QAItem
from ofmu_jax.evals import Subject
from ofmu_jax.evals.batching import length_batches
from ofmu_jax.losses.language import Batch
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, hidden_states
from ofmu_jax.robustness.measures import candidates


def chosen_by_probe(
    subject: Subject,
    known: Sequence[QAItem],
    asked: Sequence[QAItem],
    layer: int,
    ridge: float = 1e-2,
) -> np.ndarray:
    """Which answers a probe takes for right.

    Args:
      subject: the model.
      known: items with wrong answers that the probe learns from.
      asked: N others.
      layer: the block whose output is read, counted from 0.
      ridge: penalty on the probe's weights, relative to the mean square of the features.

    Returns:
      (N,) float64, 1 where the right answer scores above every wrong one.
    """
    features, labels = [], []
    for items in (known, asked):
        encoded, groups = candidates(subject, items)
        states = mean_states(subject, encoded, layer)[groups]
        # Only what tells the answers to one question apart is of use.
        features.append(states - states.mean(axis=1, keepdims=True))
        right = np.zeros(groups.shape)
        right[:, 0] = 1.0
        labels.append(right - right.mean(axis=1, keepdims=True))
    weights = ridge_weights(
        features[0].reshape(-1, features[0].shape[-1]), labels[0].ravel(), ridge
    )
    scores = features[1] @ weights
    return (scores[:, 0] > scores[:, 1:].max(axis=1)).astype(np.float64)


def ridge_weights(features: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """Minimises `|X w - y|^2 + ridge tr(X' X) / E |w|^2`.

    Args:
      features: X, (N, E).
      labels: y, (N,).
      ridge: relative penalty, > 0.

    Returns:
      (E,) float64.

    >>> ridge_weights(np.eye(2), np.array([1.0, -2.0]), 1.0)
    array([ 0.5, -1. ])
    """
    x = np.asarray(features, np.float64)
    gram = x.T @ x
    penalty = ridge * max(np.trace(gram) / len(gram), np.finfo(np.float64).tiny)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ labels)


def mean_states(subject: Subject, encoded: Encoded, layer: int) -> np.ndarray:
    """(N, E) float64, the output of a block averaged over the scored tokens of each row.

    Raises:
      InputError: the model has no such block, or a row is too long for it.
    """
    pending = []
    for rows, width in length_batches(encoded.lengths, subject.rows_of_width, "read states"):
        width = min(width, encoded.tokens.shape[1])
        batch = {"tokens": encoded.tokens[rows, :width], "scored": encoded.scored[rows, :width]}
        pending.append((rows, _means(subject.config, layer, subject.params, subject.place(batch))))
    result = np.zeros((len(encoded.lengths), subject.config.hidden_size))
    for rows, means in jax.device_get(pending):
        result[rows] = means
    return result


@functools.partial(jax.jit, static_argnums=(0, 1))
def _means(config: DecoderConfig, layer: int, params: Params, batch: Batch) -> jax.Array:
    states = hidden_states(config, params, batch["tokens"], layer).astype(jnp.float32)
    scored = batch["scored"][..., None]
    return jnp.sum(states, axis=1, where=scored) / jnp.maximum(jnp.sum(scored, axis=1), 1)
