"""Batches of one static shape, so that a jitted program compiles once."""

from collections.abc import Iterator

import numpy as np


def padded_batches(count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Splits `range(count)` into index arrays of equal length; the last repeats its last index.

    Args:
      count: number of rows, N.
      batch_size: rows per batch, B; N where that is smaller.

    Yields:
      (min(B, N),) int64. Concatenated and cut to N, they are `arange(N)`.

    >>> [rows.tolist() for rows in padded_batches(5, 3)]
    [[0, 1, 2], [3, 4, 4]]
    """
    batch_size = min(batch_size, count)
    for start in range(0, count, batch_size or 1):
        yield np.minimum(np.arange(start, start + batch_size), count - 1)
