"""Batches as pure functions of a seed and a step, so that a resumed run sees the same data."""

from typing import TypeAlias

import numpy as np

from ofmu_jax.data.encoding import Encoded
from ofmu_jax.errors import InputError

# `tokens` (B, S) int32 and `scored` (B, S) bool.
Batch: TypeAlias = dict[str, np.ndarray]
# Some rows of a batch, as positions in it.
Own: TypeAlias = np.ndarray | slice

ALL_ROWS = slice(None)

# Widths of batches are multiples of this, so that few programs are compiled. Batches of similar
# lengths have less padding to lose to the rounding.
_WIDTH = 64
_GROUPED_WIDTH = 32
# Enough to sort by length, few enough that batches of an epoch still vary.
_POOL_BATCHES = 50


def take(
    encoded: Encoded, indices: np.ndarray, multiple: int = _WIDTH, own: Own = ALL_ROWS
) -> Batch:
    """Picks rows, without the padding that none of them needs.

    Args:
      encoded: N rows of S tokens.
      indices: (B,) int.
      multiple: what W is rounded up to.
      own: which of the B rows are wanted, all by default; the others are not read, and W is the
        same to all who share a batch.

    Returns:
      `tokens` (B, W) int32 and `scored` (B, W) bool, W the least of S and the multiples of
      `multiple` that holds the longest row.
    """
    width = -(-int(encoded.lengths[indices].max()) // multiple) * multiple
    rows = indices[own]
    return {"tokens": encoded.tokens[rows, :width], "scored": encoded.scored[rows, :width]}


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
    _check_sizes(size, batch_size)
    epochs, positions = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), size)
    orders = [
        np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in range(epochs[0], epochs[-1] + 1)
    ]
    return np.stack(orders)[epochs - epochs[0], positions]


def grouped_indices(seed: int, step: int, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The items of one batch out of an endless sequence of epochs, of similar lengths each.

    Each epoch is a permutation of its own, of which 50 batches at a time are sorted by length;
    then the batches are put in random order. The last batch of the permutation is filled with
    items of the same epoch, so that all batches have the same shape.

    Args:
      seed: which sequence, at least 0.
      step: which batch, at least 0.
      lengths: (N,) int, of the items.
      batch_size: items per batch; may exceed N.

    Returns:
      (batch_size,) int64, in [0, N).

    Raises:
      InputError: there are no items, or `batch_size` is less than 1.
    """
    size = len(lengths)
    _check_sizes(size, batch_size)
    epoch, number = divmod(step, steps_per_epoch(size, batch_size))
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(size)
    # Repeats the permutation from its start.
    order = np.resize(order, steps_per_epoch(size, batch_size) * batch_size)
    pools = np.arange(len(order)) // (_POOL_BATCHES * batch_size)
    batches = order[np.lexsort((lengths[order], pools))].reshape(-1, batch_size)
    return batches[generator.permutation(len(batches))[number]]


def training_batch(
    encoded: Encoded,
    step: int,
    batch_size: int,
    seed: int,
    group_by_length: bool = False,
    own: Own = ALL_ROWS,
) -> Batch:
    """The batch of one training step; see `epoch_indices` and `grouped_indices`.

    Args:
      encoded: N rows of S tokens.
      step: number of the step, from 0.
      batch_size: rows per batch.
      seed: the order of the items.
      group_by_length: whether the rows of a batch have similar lengths, which saves padding.
      own: which rows of the batch are wanted, as `take` has it.

    Returns:
      `tokens` (B, W) int32 and `scored` (B, W) bool; W as `take` has it, and when grouped by
      length a multiple of 32.

    Raises:
      InputError: there are no rows, or `batch_size` is less than 1.
    """
    if group_by_length:
        indices = grouped_indices(seed, step, encoded.lengths, batch_size)
        return take(encoded, indices, _GROUPED_WIDTH, own)
    return take(encoded, epoch_indices(seed, step, len(encoded.tokens), batch_size), own=own)


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


def _check_sizes(size: int, batch_size: int) -> None:
    if size < 1:
        raise InputError(f"a set of {size} items has no batches; expected at least one item")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
