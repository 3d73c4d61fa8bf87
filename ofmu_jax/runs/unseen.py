"""What the original model thinks of answers that it has never seen."""

import functools
from typing import Any

import jax
import numpy as np

from ofmu_jax.data import QAItem, UnlearningData, encode_qa, take
from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import token_log_probs
from ofmu_jax.losses.matching import loss_quantiles
from ofmu_jax.models import Network
from ofmu_jax.runs.datasets import RequestData
from ofmu_jax.runs.models import Model
from ofmu_jax.scale import fetch

_ROWS = 32


def unseen_quantiles(model: Model, data: RequestData, template: str, needed_by: str) -> np.ndarray:
    """The distribution of the losses of unseen answers' tokens.

    Args:
      model: the original model.
      data: its holdout set is taken.
      template: how a question becomes a prompt.
      needed_by: the method that asks, for the error.

    Returns:
      (Q,) float32, as from `loss_quantiles`.

    Raises:
      InputError: the data have no holdout set.
    """
    pairs = [(item.question, item.answer) for item in unseen_items(data, needed_by)]
    rows = encode_qa(model.tokenizer, pairs, template)
    score = jax.jit(functools.partial(_log_probs, Network(model.config)))
    losses = []
    for start in range(0, len(pairs), _ROWS):
        # The last batch is filled with rows from the beginning, which are then left out.
        batch = take(rows, np.arange(start, start + _ROWS) % len(pairs))
        scored = batch["scored"][:, 1:].copy()
        scored[len(pairs) - start :] = False
        losses.append(-fetch(score(model.params, batch["tokens"]))[scored])
    return loss_quantiles(np.concatenate(losses))


def unseen_items(data: RequestData, needed_by: str) -> tuple[QAItem, ...]:
    """The holdout set.

    Raises:
      InputError: the data have none.
    """
    if not isinstance(data, UnlearningData) or not data.holdout:
        raise InputError(
            f"{data.name} has no holdout set, which method {needed_by} needs; expected questions "
            "of the kind of the forget set that no model has seen: --holdout of TOFU, or the "
            "embedded authors"
        )
    return data.holdout


def _log_probs(network: Network, params: Any, tokens: jax.Array) -> jax.Array:
    return token_log_probs(network(params, tokens), tokens)
