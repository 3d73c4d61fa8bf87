"""How much of what was forgotten an attack brings back, beyond what it does to a retrained model.

With s the mean over items of a measure, s_0 without an attack and s_A under attack A, of the
original model O, the retrained R and the unlearned U:

    gain(M)     = s_A(M) - s_0(M)
    recovery(M) = gain(M) / (s_0(O) - s_0(M))
    excess      = recovery(U) - max(recovery(R), 0)

An attack that makes U answer as O does has recovery 1, one that changes nothing 0. A retrained
model gains as well, from what it is shown; only the excess speaks of knowledge that was left. That
an attack harms the retrained model says nothing of U, hence the 0.
"""

from typing import NamedTuple

import numpy as np

from ofmu_jax.evals.statistics import bootstrap_interval

LEAST_GAP = 0.1
"""With less than this between the original and a model there is too little to bring back."""


class Scores(NamedTuple):
    """One measure of N items.

    Attributes:
      original: (N,) of the original model, without an attack; None if it is not there.
      unlearned: (N,) of the unlearned model, without.
      unlearned_attacked: (N,) of the same under the attack.
      retrained: (N,) of the retrained model, without.
      retrained_attacked: (N,) of the same under the attack.
    """

    original: np.ndarray | None
    unlearned: np.ndarray
    unlearned_attacked: np.ndarray
    retrained: np.ndarray
    retrained_attacked: np.ndarray


class Recovery(NamedTuple):
    """What an attack brings back; intervals of 95 % over items.

    Attributes:
      unlearned: recovery ratio of the unlearned model.
      unlearned_interval: of it.
      retrained: recovery ratio of the retrained model.
      excess: what of it is beyond the retrained model's, where that is not negative.
      excess_interval: of it.
      excess_gain: the same of the gains, which needs no original model.
    """

    unlearned: float | None
    unlearned_interval: list[float] | None
    retrained: float | None
    excess: float | None
    excess_interval: list[float] | None
    excess_gain: float


def ratio(attacked: float, unlearned: float, original: float) -> float:
    """`(attacked - unlearned) / (original - unlearned)`, the gap taken as `LEAST_GAP` at least.

    >>> ratio(0.9, 0.1, 0.9), ratio(0.1, 0.1, 0.9)
    (1.0, 0.0)
    """
    return (attacked - unlearned) / max(original - unlearned, LEAST_GAP)


def recovery(scores: Scores, groups: np.ndarray | None = None) -> Recovery:
    """The recovery ratios of one attack; None without an original, or with a gap below `LEAST_GAP`.

    The same items are drawn for all models and for both states, as they belong together.

    Args:
      scores: of the items, by model and state.
      groups: (N,), which items are not independent of one another; None where all are.
    """
    gain = np.mean(scores.unlearned_attacked - scores.unlearned)
    gain_retrained = np.mean(scores.retrained_attacked - scores.retrained)
    excess_gain = float(gain - max(gain_retrained, 0))
    if scores.original is None:
        return Recovery(None, None, None, None, None, excess_gain)
    columns = np.stack([scores.original, *scores[1:]], axis=1)

    def of_unlearned(items: np.ndarray) -> float:
        original, before, after, _, _ = items.mean(axis=0)
        return ratio(after, before, original)

    def excess(items: np.ndarray) -> float:
        original, before, after, retrained, retrained_after = items.mean(axis=0)
        yardstick = max(ratio(retrained_after, retrained, original), 0)
        return ratio(after, before, original) - yardstick

    original, before, _, retrained, retrained_after = columns.mean(axis=0)
    own = original - before >= LEAST_GAP
    both = own and original - retrained >= LEAST_GAP
    return Recovery(
        of_unlearned(columns) if own else None,
        bootstrap_interval(of_unlearned, columns, groups=[groups]) if own else None,
        float(ratio(retrained_after, retrained, original)) if both else None,
        excess(columns) if both else None,
        bootstrap_interval(excess, columns, groups=[groups]) if both else None,
        excess_gain,
    )
