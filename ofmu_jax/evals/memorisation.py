"""How much of a text a model knows by heart, token by token.

As open-unlearning has it, the last scored token, which ends an answer, does not count.
"""

import numpy as np

from ofmu_jax.evals.scoring import TokenScores


def exact_memorisation(scores: TokenScores) -> np.ndarray:
    """Share of a row's tokens that are the most probable ones (Tirumala et al., 2022,
    arXiv:2205.10770).

    Args:
      scores: of N rows.

    Returns:
      (N,) float64 in [0, 1].

    Raises:
      InputError: a row has no token beside its last.
    """
    counted = scores.before_last
    return (scores.correct & counted).sum(axis=1) / counted.sum(axis=1)


def extraction_strength(scores: TokenScores) -> np.ndarray:
    """Share of a row that follows by itself from the rest (Carlini et al., 2021, arXiv:2012.07805).

    `1 - k / n`, where from token k on all of the n tokens are the most probable ones. As
    open-unlearning computes it, k is n - 1 at most: a row that ends in a wrong token has 1 / n.

    Args:
      scores: of N rows.

    Returns:
      (N,) float64 in (0, 1].

    Raises:
      InputError: a row has no token beside its last.
    """
    counted = scores.before_last
    n = counted.sum(axis=1)
    number = counted.cumsum(axis=1)  # of a token among those that count, from 1
    last_wrong = np.max(number, axis=1, where=counted & ~scores.correct, initial=0)
    return 1 - np.minimum(last_wrong, n - 1) / n
