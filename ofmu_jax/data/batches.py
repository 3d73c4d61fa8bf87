"""Batches as pure functions of a seed and a step, so that a resumed run sees the same data."""

from typing import TypeAlias

import numpy as np

from ofmu_jax.data.tokenization import EncodedQA
from ofmu_jax.errors import InputError

# `tokens` (B, S) int32 and `scored` (B, S) bool.
Batch: TypeAlias = dict[str, np.ndarray]


# Widths of batches are multiples of this, so that few programs are compiled.
_WIDTH = 64


def take(encoded: EncodedQA, indices: np.ndarray) -> Batch:
    """Picks rows, without the padding that none of them needs.

    Args:
      encoded: N rows of S tokens.
      indices: (B,) int.

    Returns:
      `tokens` (B, W) int32 and `scored` (B, W) bool, W the least of S and the multiples of 64
      that holds the longest row.
    """
    rows = EncodedQA(*(array[indices] for array in encoded))
    width = -(-int(rows.lengths.max()) // _WIDTH) * _WIDTH
    return {"tokens": rows.tokens[:, :width], "scored": rows.scored[:, :width]}


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Number of batches that hold every item at least once.

    >>> steps_per_epoch(40, 16)
    3
    """
    return -(-size // batch_size)


def epoch_indices(seed: int, step: int, size: int, batch_size: int) -> np.ndarray:
    """The items of one batch out of an endless sequence of epochs.

    Each epoch is a permutation of its own. A batch at the end of an epoch is filled from the
    next one, so that all batches have the same shape and no item is ever left out.

    Args:
      seed: which sequence, at least 0.
      step: which batch, at least 0.
      size: number of items.
      batch_size: items per batch; may exceed `size`.

    Returns:
      (batch_size,) int64, in [0, size).

    Raises:
      InputError: `size` or `batch_size` is less than 1.
    """
    if size < 1:
        raise InputError(f"a set of {size} items has no batches; expected at least one item")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    epochs, positions = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), size)
    orders = [
        np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in range(epochs[0], epochs[-1] + 1)
    ]
    return np.stack(orders)[epochs - epochs[0], positions]


def training_batch(encoded: EncodedQA, step: int, batch_size: int, seed: int) -> Batch:
    """The batch of one training step; see `epoch_indices`.

    Args:
      encoded: N rows of S tokens.
      step: number of the step, from 0.
      batch_size: rows per batch.
      seed: the order of the items.

    Returns:
      `tokens` (B, S) int32 and `scored` (B, S) bool.

    Raises:
      InputError: there are no rows, or `batch_size` is less than 1.
    """
    return take(encoded, epoch_indices(seed, step, len(encoded.tokens), batch_size))


def paired_indices(
    forget_size: int, retain_size: int, step: int, *, batch_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The forget and the retain items of one unlearning step.

    An epoch is one pass over the forget set, each item beside a retain item. Those come from
    epochs over the retain set rather than from independent draws, so that all serve equally often.

    Args:
      forget_size: number of items to unlearn.
      retain_size: number of items to keep.
      step: number of the step, from 0.
      batch_size: items of each batch.
      seed: the order of the items of both sets.

    Returns:
      Two (batch_size,) int64 arrays.

    Raises:
      InputError: a set has no items, or `batch_size` is less than 1.
    """
    # Seeds of their own: with one permutation, sets of equal size would always pair alike.
    forget_seed, retain_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    return (
        epoch_indices(forget_seed, step, forget_size, batch_size),
        epoch_indices(retain_seed, step, retain_size, batch_size),
    )
