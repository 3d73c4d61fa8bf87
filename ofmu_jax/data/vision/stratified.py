"""Drawing a part of a set in which all classes have their share."""

import numpy as np


def stratified(
    labels: np.ndarray,
    fraction: float,
    generator: np.random.Generator,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """Draws items at random, the same fraction of each class.

    A class of n items has `fraction * n` of them drawn, up to less than one more or less, so that
    altogether it is `round(fraction * N)`.

    Args:
      labels: (N,) int, at least 0.
      fraction: at least 0, less than 1.
      generator: what order is drawn from.
      excluded: (N,) bool, what must not be drawn; others of its class take its place, as far as
        there are any.

    Returns:
      Indices (M,) int64, in order.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> labels[stratified(labels, 0.5, np.random.default_rng(0))].tolist()
    [0, 0, 1]
    """
    shares = fraction * np.bincount(labels)
    counts = np.floor(shares).astype(np.int64)
    missing = round(fraction * len(labels)) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    order = generator.permutation(len(labels))
    if excluded is not None:
        order = order[~excluded[order]]
    order = order[np.argsort(labels[order], kind="stable")]
    ranked = labels[order]
    ranks = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return np.sort(order[ranks < counts[ranked]])
