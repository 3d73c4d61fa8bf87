"""Batches of few static shapes, so that a jitted program compiles rarely."""

from collections.abc import Callable, Iterator

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


def length_batches(
    lengths: np.ndarray,
    batch_size: Callable[[int], int],
    label: str | None = None,
    multiple: int = 32,
) -> Iterator[tuple[np.ndarray, int]]:
    """Splits rows into batches of similar lengths, whose shapes are few.

    Args:
      lengths: (N,) int, tokens of each row, N > 0.
      batch_size: how many rows a batch of a given width has.
      label: what a progress bar says, as in `padded_batches`.
      multiple: widths are multiples of this; the larger, the fewer programs are compiled.

    Yields:
      Indices, `batch_size(width)` of them, and the width that holds them.
      Together they are all rows, the shortest first; what does not fill a batch joins the next
      width, and in the last batch an index is repeated.

    >>> lengths = np.array([40, 3, 5, 7])
    >>> [(rows.tolist(), width) for rows, width in length_batches(lengths, lambda width: 2)]
    [([1, 2], 32), ([3, 0], 64)]
    """
    order = np.argsort(lengths, kind="stable")
    widths = -(-lengths[order] // multiple) * multiple
    hidden = True if label is None else None
    with tqdm(total=len(order), desc=label, unit="row", leave=False, disable=hidden) as bar:
        waiting = order[:0]
        for width in np.unique(widths).tolist():
            waiting = np.concatenate([waiting, order[widths == width]])
            size = batch_size(width)
            last = width == widths[-1]
            while len(waiting) >= size or (last and len(waiting)):
                rows, waiting = waiting[:size], waiting[size:]
                bar.update(len(rows))
                yield np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))]), width
