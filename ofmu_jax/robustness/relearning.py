"""Relearning: fine-tuning on a part of the forget set, and what comes back of the rest.

Knowledge that was only hidden returns with few examples of it, also where it was not relearnt
(Lynch et al., 2024, arXiv:2402.16835; Hu et al., 2024, arXiv:2406.13356).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ofmu_jax.data import Encoded, epoch_indices
from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import Batch, cross_entropy
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, forward


def split_items(size: int, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which items are relearnt and which are held out, drawn at random.

    Args:
      size: number of items, at least 2.
      part: that is relearnt, in (0, 1); of either kind there is one item at least.
      seed: of the draw.

    Returns:
      Two sorted int64 arrays, which together are all items.

    Raises:
      InputError: `size` or `part` is out of range.

    >>> relearnt, held_out = split_items(4, 0.5, seed=0)
    >>> len(relearnt), sorted([*relearnt.tolist(), *held_out.tolist()])
    (2, [0, 1, 2, 3])
    """
    if not 0 < part < 1:
        raise InputError(f"relearnt part is {part}; expected in (0, 1)")
    if size < 2:
        raise InputError(f"{size} items cannot be split; expected at least 2")
    count = min(max(round(part * size), 1), size - 1)
    order = np.random.default_rng(seed).permutation(size)
    return np.sort(order[:count]), np.sort(order[count:])


def relearn(
    config: DecoderConfig,
    params: Params,
    encoded: Encoded,
    marks: Sequence[int],
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[int, Params]]:
    """Fine-tunes with Adam at a constant rate; stops at the marks to show the model.

    Args:
      config: the shape of the model.
      params: its parameters; left as they are.
      encoded: the rows to relearn.
      marks: numbers of steps, ascending.
      learning_rate: > 0.
      batch_size: rows per step.
      seed: of their order.

    Yields:
      Each mark, with the parameters after so many steps.
    """
    width = min(-(-int(encoded.lengths.max()) // 64) * 64, encoded.tokens.shape[1])
    state = _optimiser(learning_rate).init(params)
    for k in range(max(marks)):
        rows = epoch_indices(seed, k, len(encoded.lengths), batch_size)
        batch = {"tokens": encoded.tokens[rows, :width], "scored": encoded.scored[rows, :width]}
        params, state = _step(config, params, state, batch, learning_rate)
        if k + 1 in marks:
            yield k + 1, params


def _optimiser(learning_rate: Any) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    config: DecoderConfig, params: Params, state: optax.OptState, batch: Batch, learning_rate: float
) -> tuple[Params, optax.OptState]:
    apply_fn = functools.partial(forward, config)
    gradient = jax.grad(functools.partial(cross_entropy, apply_fn))(params, batch)
    updates, state = _optimiser(learning_rate).update(gradient, state, params)
    return optax.apply_updates(params, updates), state
