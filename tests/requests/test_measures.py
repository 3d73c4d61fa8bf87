"""What a model is judged by, from scores made by hand, and from a small model."""

import math

import numpy as np
import pytest

from ofmu_jax.data import encode_qa
from ofmu_jax.errors import InputError
from ofmu_jax.evals import answer_losses
from ofmu_jax.requests.config import Thresholds
from ofmu_jax.requests.measures import Scores, measured, score, shortfalls
from tests.requests.tiny import AUTHORS, POOL, model, subject


def scores(probability, real=0.5, world=0.25):
    filled = np.full(len(POOL), probability) if np.isscalar(probability) else probability
    return Scores(filled, filled / 2, real, world, 0.125)


def test_figures_are_means_over_what_they_name():
    values = np.arange(len(POOL)) / 100
    found = measured(scores(values), scores(0.5), POOL, {"a": (0, 1), "b": (12,)})
    assert found["requests"]["a"] == {"probability": 0.005, "largest": 0.01, "memorised": 0.0025}
    assert found["requests"]["b"]["probability"] == 0.12
    kept = [i for i in range(40) if i not in (0, 1, 12)]
    assert found["kept"] == pytest.approx(np.mean(values[kept]))
    # The rest of the first author and of the second one.
    neighbours = [i for i in range(20) if i not in (0, 1, 12)]
    assert found["neighbours"] == pytest.approx(np.mean(values[neighbours]))
    utility = 3 / (1 / found["kept"] + 1 / 0.5 + 1 / 0.25)
    assert found["utility"] == pytest.approx(utility)
    assert found["utility_ratio"] == pytest.approx(utility / (3 / (2 + 2 + 4)))


def test_a_whole_author_has_no_neighbours():
    found = measured(scores(0.5), scores(0.5), POOL, {"a": tuple(range(10))})
    assert found["neighbours"] is None and found["utility_ratio"] == 1.0


@pytest.mark.parametrize(
    ("probability", "ratio", "missed"),
    [(0.1, 0.8, 0), (0.11, 0.8, 1), (0.1, 0.79, 1), (0.2, 0.1, 2), (math.nan, math.nan, 2)],
)
def test_thresholds_are_met_or_named(probability, ratio, missed):
    metrics = {
        "requests": {"old": {"probability": 0.0}, "new": {"probability": probability}},
        "utility_ratio": ratio,
    }
    found = shortfalls(metrics, Thresholds(0.1, 0.8))
    assert len(found) == missed
    assert all("request new" in line or "utility ratio" in line for line in found)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_thresholds_are_parts(value):
    with pytest.raises(InputError, match="min_utility_ratio must be in"):
        Thresholds(min_utility_ratio=value)


def test_scores_are_of_answers_alone_or_beside_the_wrong_ones():
    asked = subject(model())
    found = score(asked, POOL, AUTHORS)

    def likely(pairs):
        return np.exp(-answer_losses(asked, encode_qa(asked.tokenizer, pairs)))

    each = likely([(item.question, item.answer) for item in POOL.items])
    np.testing.assert_allclose(found.probability, each, rtol=1e-5)
    for items, value in (
        (AUTHORS.real_authors, found.real_authors),
        (AUTHORS.world_facts, found.world_facts),
    ):
        right = likely([(item.question, item.answer) for item in items])
        wrong = likely([(i.question, text) for i in items for text in i.perturbed_answer])
        share = right / (right + wrong.reshape(len(items), -1).sum(axis=1))
        assert value == pytest.approx(share.mean(), rel=1e-5)
    unseen = likely([(item.question, item.answer) for item in AUTHORS.holdout])
    assert found.unseen == pytest.approx(unseen.mean(), rel=1e-5)
    assert 0 <= found.memorised.min() <= found.memorised.max() <= 1
