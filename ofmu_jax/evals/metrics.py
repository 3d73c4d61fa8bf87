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
    return rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge(generation: str, reference: str) -> dict[str, float]:
    """Overlap of two texts in words (rouge1) and in their longest common subsequence (rougeL).

    Args:
      generation: what the model wrote.
      reference: what recall is the found share of.

    Returns:
      `rouge1_recall`, `rougeL_f1` and `rougeL_recall`.

    >>> scores = rouge("She wrote novels in French", "She writes novels")
    >>> {name: round(score, 3) for name, score in scores.items()}
    {'rouge1_recall': 0.667, 'rougeL_f1': 0.5, 'rougeL_recall': 0.667}
    """
    scores = _rouge_scorer().score(reference, generation)
    return {
        "rouge1_recall": scores["rouge1"].recall,
        "rougeL_f1": scores["rougeL"].fmeasure,
        "rougeL_recall": scores["rougeL"].recall,
    }


class ForgetQuality(NamedTuple):
    """Result of the two-sample Kolmogorov-Smirnov test.

    Attributes:
      p: exact two-sided p-value; the forget quality.
      log10_p: its logarithm, right also where `p` underflows to 0.
      statistic: D, the largest distance of the two empirical distribution functions.
      n: items per sample.
      neighbours: the attainable p-values next below and next above `p`; None beyond the ends. With
        few items they are far apart, and a difference between two models may be one step.
    """

    p: float
    log10_p: float
    statistic: float
    n: int
    neighbours: tuple[float | None, float | None]


def ks_p(h: int, n: int) -> tuple[float, float]:
    """Exact p-value of D = h / n, for two samples of n items, and its logarithm.

    p is `2 sum_{j >= 1} (-1)^(j-1) C(2n, n - jh) / C(2n, n)` (Gnedenko and Korolyuk, 1951). In
    integers that loses no digit; in floating point SciPy's exact p fails for some D, such as 1 / 7,
    and makes way for an approximation.

    >>> ks_p(200, 200)
    (1.9426434495222363e-119, -118.71160690198099)
    """
    if h == 0:
        return 1.0, 0.0
    paths = 2 * sum((-1) ** (j - 1) * math.comb(2 * n, n - j * h) for j in range(1, n // h + 1))
    ways = math.comb(2 * n, n)
    return paths / ways, math.log10(paths) - math.log10(ways)


def forget_quality(ratio: np.ndarray, retain_ratio: np.ndarray) -> ForgetQuality:
    """Tests whether unlearned and retrained model have the same distribution of truth ratios.

    Args:
      ratio: (N,) raw truth ratios of the unlearned model on the forget set.
      retain_ratio: (N,) those of the model retrained without it.

    Returns:
      The p-value and what is needed to judge it.

    Raises:
      InputError: the samples differ in size, hence cannot be of the same items.

    >>> quality = forget_quality(np.arange(40.0), np.arange(40.0) + 7)
    >>> round(quality.p, 3), [round(p, 3) for p in quality.neighbours]
    (0.579, [0.405, 0.766])
    """
    n = len(ratio)
    if len(retain_ratio) != n:
        raise InputError(
            f"the retain model has {len(retain_ratio)} truth ratios; "
            f"expected {n}, one per forget item"
        )
    # The numbers of items up to each value, whose largest difference is D in units of 1 / n.
    values = np.concatenate([ratio, retain_ratio])
    counts = (np.searchsorted(np.sort(x), values, side="right") for x in (ratio, retain_ratio))
    h = int(np.abs(np.subtract(*counts)).max())
    step = max(h, 1)  # D = 1 / n has p = 1 as D = 0 has
    below, above = (
        ks_p(other, n)[0] if 1 <= other <= n else None for other in (step + 1, step - 1)
    )
    return ForgetQuality(*ks_p(h, n), h / n, n, (below, above))


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
    return _harmonic_mean(terms)


def memorisation_score(
    extraction: np.ndarray, exact: np.ndarray, paraphrased: np.ndarray, ratio: np.ndarray
) -> float:
    """How little of the forget set can be found in a model by any of four measures.

    The harmonic mean of 1 - m over: extraction strength, exact memorisation, the probability of
    the paraphrased answer, and the share of that in the sum with the wrong answers'
    (open-unlearning; Dorna et al., 2025, arXiv:2506.12618).

    Args:
      extraction: (N,) extraction strengths of the items.
      exact: (N,) exact memorisation.
      paraphrased: (N,) length-normalised probabilities of the paraphrased answers.
      ratio: (N,) truth ratios.

    Returns:
      Between 0, if one measure finds everything, and 1, if none finds anything.

    >>> half = np.array([0.25, 0.75])
    >>> round(memorisation_score(half, half, half, np.array([1.0, 1.0])), 6)
    0.5
    """
    measures = (extraction, exact, paraphrased, 1 / (1 + ratio))
    return _harmonic_mean([1 - float(np.mean(measure)) for measure in measures])


def _harmonic_mean(terms: Sequence[float]) -> float:
    if min(terms) <= 0:
        return 0.0
    return len(terms) / sum(1 / term for term in terms)
