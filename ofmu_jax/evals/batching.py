"""Batches of one static shape, so that a jitted program compiles once."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm


def padded_batches(count: int, batch_size: int, label: str | None = None) -> Iterator[np.ndarray]:
    """Splits `range(count)` into index arrays of equal length; the last repeats its last index.

    Args:
      count: number of rows, N.
      batch_size: rows per batch, B; N where that is smaller.
      label: what a progress bar over the batches says, on a terminal; without it there is none.

    Yields:
      (min(B, N),) int64. Concatenated and cut to N, they are `arange(N)`.

    >>> [rows.tolist() for rows in padded_batches(5, 3)]
    [[0, 1, 2], [3, 4, 4]]
    """
    batch_size = min(batch_size, count)
    starts = range(0, count, batch_size or 1)
    hidden = True if label is None else None  # None: hidden where there is no terminal
    for start in tqdm(starts, desc=label, unit="batch", leave=False, disable=hidden):
        yield np.minimum(np.arange(start, start + batch_size), count - 1)
