"""What a model is judged by between requests: what is forgotten, and what is still known."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ofmu_jax.data import QAItem, UnlearningData, encode_qa
from ofmu_jax.errors import InputError
from ofmu_jax.evals import (
    ScoredRows,
    Subject,
    exact_memorisation,
    normalised_probability,
    probability,
)
from ofmu_jax.requests.config import Thresholds
from ofmu_jax.requests.pool import Pool


class Scores(NamedTuple):
    """What a model makes of the training data and of what lies beside them.

    Attributes:
      probability: (N,) of each answer, the geometric mean over its tokens.
      memorised: (N,) share of each answer's tokens that are the most probable ones.
      real_authors: mean normalised probability of the right answers on real authors.
      world_facts: the same on the world.
      unseen: mean probability of the answers of the holdout set, which nobody was trained on: what
        a model that never saw an item may give it. None where there is no holdout set.
    """

    probability: np.ndarray
    memorised: np.ndarray
    real_authors: float
    world_facts: float
    unseen: float | None

    def utility(self, kept: Sequence[int]) -> float:
        """Harmonic mean of three: answers on the items kept, on real authors, on the world."""
        own = [float(self.probability[list(kept)].mean())] if kept else []
        return statistics.harmonic_mean([*own, self.real_authors, self.world_facts])


def score(subject: Subject, pool: Pool, data: UnlearningData) -> Scores:
    """Scores a model.

    Raises:
      InputError: a loss is not finite.
    """
    tokens = _rows(subject, "training", [(i.question, i.answer) for i in pool.items]).tokens
    return Scores(
        probability(tokens.loss),
        exact_memorisation(tokens),
        _general(subject, "real authors", data.real_authors),
        _general(subject, "world facts", data.world_facts),
        _unseen(subject, data.holdout),
    )


def measured(
    scores: Scores,
    first: Scores,
    pool: Pool,
    requests: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The figures of a record.

    Args:
      scores: of the model after some requests.
      first: of the model before all of them.
      pool: the training data.
      requests: the items of every request served, by id.

    Returns:
      `requests`, by id: mean and largest `probability` of the answers, and how much is
      `memorised`; `kept`, the mean probability on what remains; `neighbours`, the same on the
      remaining items of authors of whom something is forgotten, None if there are none;
      `real_authors`, `world_facts`, `unseen`, `utility`, and `utility_ratio` to that of the first
      model.
    """
    named = {index for indices in requests.values() for index in indices}
    kept = [i for i in range(len(pool)) if i not in named]
    neighbours = sorted(pool.related(named) - named)
    utility, before = scores.utility(kept), first.utility(kept)
    return {
        "requests": {
            name: {
                "probability": _mean(scores.probability, indices),
                "largest": float(scores.probability[list(indices)].max()),
                "memorised": _mean(scores.memorised, indices),
            }
            for name, indices in requests.items()
        },
        "kept": _mean(scores.probability, kept),
        "neighbours": _mean(scores.probability, neighbours),
        "real_authors": scores.real_authors,
        "world_facts": scores.world_facts,
        "unseen": scores.unseen,
        "utility": utility,
        "utility_ratio": utility / before if before else 0.0,
    }


def shortfalls(metrics: Mapping[str, Any], thresholds: Thresholds) -> list[str]:
    """Which thresholds a model misses, in words; none if it meets all.

    >>> metrics = {"requests": {"r1": {"probability": 0.3}}, "utility_ratio": 0.9}
    >>> shortfalls(metrics, Thresholds(max_forget_probability=0.1, min_utility_ratio=0.8))
    ['request r1 has the answer probability 0.3, more than max_forget_probability = 0.1']
    """
    limit, least = thresholds.max_forget_probability, thresholds.min_utility_ratio
    missed = [
        f"request {name} has the answer probability {figures['probability']:.4g}, more than "
        f"max_forget_probability = {limit:g}"
        for name, figures in metrics["requests"].items()
        if not figures["probability"] <= limit
    ]
    if not metrics["utility_ratio"] >= least:
        missed.append(
            f"the utility ratio is {metrics['utility_ratio']:.4g}, less than min_utility_ratio = "
            f"{least:g}"
        )
    return missed


def _mean(values: np.ndarray, indices: Collection[int]) -> float | None:
    return float(values[list(indices)].mean()) if indices else None


def _rows(subject: Subject, name: str, pairs: Sequence[tuple[str, str]]) -> ScoredRows:
    return ScoredRows(subject, name, encode_qa(subject.tokenizer, pairs, subject.template))


def _general(subject: Subject, name: str, items: Sequence[QAItem]) -> float:
    counts = {len(item.perturbed_answer) for item in items}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"{name}: the items have {sorted(counts)} wrong answers; expected equally many, at "
            "least 1"
        )
    right = _rows(subject, name, [(i.question, i.answer) for i in items]).losses
    texts = [(i.question, text) for i in items for text in i.perturbed_answer]
    wrong = _rows(subject, name, texts).losses.reshape(len(items), -1)
    return float(normalised_probability(right, wrong).mean())


def _unseen(subject: Subject, items: Sequence[QAItem]) -> float | None:
    if not items:
        return None
    losses = _rows(subject, "holdout", [(i.question, i.answer) for i in items]).losses
    return float(probability(losses).mean())
