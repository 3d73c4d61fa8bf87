"""The metrics of TOFU (Maini et al., 2024, arXiv:2401.06121) on per-item arrays, in NumPy.

They agree with locuslab/open-unlearning, whose results files are what researchers exchange; where
that differs from the paper, the docstring says so. Losses are mean cross-entropies in nats per
token over an answer and its end-of-sequence token.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from rouge_score import rouge_scorer
from scipy import stats

from ofmu_jax.errors import InputError

# Keeps ratios finite when a probability underflows; part of the published definitions.
_EPSILON = 1e-10


def probability(loss: ArrayLike) -> np.ndarray:
    """Length-normalised probability of an answer, `exp(-loss)`, of any shape.

    >>> float(probability(np.log(4.0)))
    0.25
    """
    return np.exp(-np.asarray(loss, np.float64))


def normalised_probability(loss: np.ndarray, perturbed_loss: np.ndarray) -> np.ndarray:
    """Share of the right answer among all offered ones, by length-normalised probability.

    Args:
      loss: (N,) of the right answer.
      perturbed_loss: (N, J) of the wrong ones.

    Returns:
      (N,) float64 in [0, 1].
    """
    right = probability(loss)
    return right / (right + probability(perturbed_loss).sum(axis=1) + _EPSILON)


def truth_ratio(
    loss: np.ndarray,
    perturbed_loss: np.ndarray,
    mean: Literal["geometric", "arithmetic"] = "geometric",
) -> np.ndarray:
    """Probability of the wrong answers over that of the right one.

    The paper averages the wrong answers' probabilities; its code and open-unlearning average
    their losses, a geometric mean, and so do all published numbers.

    Args:
      loss: (N,) of the right answer.
      perturbed_loss: (N, J) of the wrong ones.
      mean: how the wrong answers are averaged, "geometric" or "arithmetic".

    Returns:
      (N,) float64, >= 0; small where the model knows the truth.

    >>> truth_ratio(np.log([2.0]), np.log([[2.0, 8.0]])).round(6)
    array([0.5])
    >>> truth_ratio(np.log([2.0]), np.log([[2.0, 8.0]]), mean="arithmetic").round(6)
    array([0.625])
    """
    if mean == "geometric":
        wrong = probability(np.mean(perturbed_loss, axis=1, dtype=np.float64))
    else:
        wrong = probability(perturbed_loss).mean(axis=1)
    return wrong / (probability(loss) + _EPSILON)


def forget_truth_ratio_score(ratio: np.ndarray) -> float:
    """Mean of `min(r, 1/r)` over (N,) truth ratios: 1 where right and wrong are equally likely.

    >>> round(forget_truth_ratio_score(np.array([0.5, 4.0])), 6)
    0.375
    """
    return float(np.mean(np.minimum(ratio, 1 / (ratio + _EPSILON))))


def retain_truth_ratio_score(ratio: np.ndarray) -> float:
    """Mean of `max(0, 1 - r)` over (N,) truth ratios: 1 where only the truth is likely.

    >>> retain_truth_ratio_score(np.array([0.5, 4.0]))
    0.25
    """
    return float(np.mean(np.maximum(0, 1 - ratio)))


@functools.cache
def _rouge_scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(generation: str, reference: str) -> float:
    """Share of the reference's words in its longest common subsequence with the generation.

    >>> rouge_l_recall("She wrote novels in French", "She writes novels")
    0.6666666666666666
    """
    return _rouge_scorer().score(reference, generation)["rougeL"].recall


class ForgetQuality(NamedTuple):
    """Result of the two-sample Kolmogorov-Smirnov test.

    Attributes:
      p: exact two-sided p-value; the forget quality.
      log10_p: its logarithm, right also where `p` underflows to 0.
      statistic: D, the largest distance of the two empirical distribution functions.
      n: items per sample.
    """

    p: float
    log10_p: float
    statistic: float
    n: int


def forget_quality(ratio: np.ndarray, retain_ratio: np.ndarray) -> ForgetQuality:
    """Tests whether unlearned and retrained model have the same distribution of truth ratios.

    For two samples of n items with D = h/n the exact p-value is
    `2 sum_{j >= 1} (-1)^(j-1) C(2n, n - jh) / C(2n, n)` (Gnedenko and Korolyuk, 1951), which in
    integers gives the logarithm without underflow.

    Args:
      ratio: (N,) raw truth ratios of the unlearned model on the forget set.
      retain_ratio: (N,) those of the model retrained without it.

    Returns:
      The p-value and what is needed to judge it.

    Raises:
      InputError: the samples differ in size, hence cannot be of the same items.

    >>> round(forget_quality(np.arange(200.0), np.arange(200.0) + 200).log10_p, 4)
    -118.7116
    """
    n = len(ratio)
    if len(retain_ratio) != n:
        raise InputError(
            f"the retain model has {len(retain_ratio)} truth ratios; "
            f"expected {n}, one per forget item"
        )
    test = stats.ks_2samp(ratio, retain_ratio, method="exact")
    h = round(test.statistic * n)
    if h == 0:
        return ForgetQuality(1.0, 0.0, 0.0, n)
    paths = sum((-1) ** (j - 1) * math.comb(2 * n, n - j * h) for j in range(1, n // h + 1))
    log10_p = min(0.0, math.log10(2 * paths) - math.log10(math.comb(2 * n, n)))
    return ForgetQuality(float(test.pvalue), log10_p, float(test.statistic), n)


def model_utility(terms: Sequence[float]) -> float:
    """Harmonic mean of {probability, ROUGE, truth ratio} on {retain, real authors, world facts}.

    Args:
      terms: the nine values, each in [0, 1]; the probabilities on real authors and world facts
        are normalised.

    Returns:
      The mean; 0 if any value is 0.

    >>> model_utility([0.5, 0.25] + [1.0] * 7)
    0.6923076923076923
    """
    if min(terms) == 0:
        return 0.0
    return len(terms) / sum(1 / term for term in terms)
