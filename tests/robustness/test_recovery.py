"""The recovery ratio and the variation over transformations."""

import numpy as np
import pytest

from ofmu_jax.robustness import LEAST_GAP, Scores, ratio, recovery, variation

RNG = np.random.default_rng(0)
ORIGINAL = RNG.uniform(0.7, 1.0, 30)
UNLEARNED = RNG.uniform(0.0, 0.2, 30)
RETRAINED = RNG.uniform(0.0, 0.3, 30)


def test_an_original_recovers_everything_and_an_unchanged_model_nothing():
    whole = recovery(Scores(ORIGINAL, UNLEARNED, ORIGINAL, RETRAINED, RETRAINED))
    assert whole.unlearned == pytest.approx(1.0)
    assert whole.unlearned_interval == pytest.approx([1.0, 1.0])
    assert whole.retrained == 0.0 and whole.excess == pytest.approx(1.0)
    none = recovery(Scores(ORIGINAL, UNLEARNED, UNLEARNED, RETRAINED, RETRAINED))
    assert none.unlearned == 0.0 and none.excess == 0.0 and none.excess_gain == 0.0


def test_a_retrained_model_s_own_gain_is_taken_off():
    after = UNLEARNED + 0.3
    found = recovery(Scores(ORIGINAL, UNLEARNED, after, RETRAINED, RETRAINED + 0.2))
    own = 0.3 / (ORIGINAL.mean() - UNLEARNED.mean())
    others = 0.2 / (ORIGINAL.mean() - RETRAINED.mean())
    assert found.unlearned == pytest.approx(own)
    assert found.retrained == pytest.approx(others)
    assert found.excess == pytest.approx(own - others)
    assert found.excess_gain == pytest.approx(0.1)


def test_a_retrained_model_that_is_harmed_proves_nothing():
    found = recovery(Scores(ORIGINAL, UNLEARNED, UNLEARNED, RETRAINED, RETRAINED / 2))
    assert found.retrained < 0 and found.excess == 0.0 and found.excess_gain == 0.0
    assert found.excess_interval == pytest.approx([0.0, 0.0])


def test_the_interval_resamples_items_together():
    after = UNLEARNED + RNG.uniform(0, 0.6, 30)
    found = recovery(Scores(ORIGINAL, UNLEARNED, after, RETRAINED, RETRAINED))
    low, high = found.unlearned_interval
    assert low < found.unlearned < high
    rng, ratios = np.random.default_rng(1), []
    for _ in range(2000):
        rows = rng.integers(30, size=30)
        ratios.append(ratio(after[rows].mean(), UNLEARNED[rows].mean(), ORIGINAL[rows].mean()))
    np.testing.assert_allclose([low, high], np.quantile(ratios, [0.025, 0.975]), atol=0.03)


def test_items_on_one_author_are_drawn_together():
    """Authors that come back by halves: which of them are drawn says all, their items nothing."""
    authors = np.repeat(np.arange(6), 5)
    back = np.isin(authors, [0, 2, 5]).astype(float)
    flat = np.zeros(30)
    scores = Scores(flat + 1, flat, back, flat, flat)
    of_items, of_authors = recovery(scores), recovery(scores, authors)
    assert of_authors.unlearned == of_items.unlearned == 0.5
    assert of_authors.unlearned_interval == of_authors.excess_interval
    assert of_authors.unlearned_interval == pytest.approx([1 / 6, 5 / 6])
    assert np.ptp(of_authors.unlearned_interval) > 1.5 * np.ptp(of_items.unlearned_interval)
    assert recovery(scores, np.zeros(30)).unlearned_interval is None


def test_items_that_differ_alike_in_all_states_leave_no_doubt():
    # Resampled apart, the columns would differ by what the items do.
    base = RNG.uniform(0.0, 0.5, 30)
    found = recovery(Scores(base + 0.4, base, base + 0.2, base, base + 0.1))
    assert found.unlearned_interval == pytest.approx([0.5, 0.5])
    assert found.excess == pytest.approx(0.25)
    assert found.excess_interval == pytest.approx([0.25, 0.25])


def test_without_an_original_or_a_gap_there_is_no_ratio():
    found = recovery(Scores(None, UNLEARNED, UNLEARNED + 0.3, RETRAINED, RETRAINED + 0.1))
    assert found[:5] == (None,) * 5 and found.excess_gain == pytest.approx(0.2)
    near = ORIGINAL - LEAST_GAP / 2
    assert recovery(Scores(ORIGINAL, near, ORIGINAL, RETRAINED, RETRAINED)).unlearned is None
    # The retrained model knows as much as the original: no yardstick, but the model's own ratio.
    found = recovery(Scores(ORIGINAL, UNLEARNED, ORIGINAL, near, near))
    assert found.unlearned == pytest.approx(1.0) and found.excess is None


def test_variation_is_over_transformations():
    scores = RNG.uniform(size=(4, 10))
    found = variation(scores)
    assert found.within == pytest.approx(np.mean([np.var(column) for column in scores.T]))
    assert found.between == pytest.approx(np.std(scores.mean(axis=1)))
    assert variation(np.ones((3, 5))) == (1.0, 0.0, 0.0)
    with_gap = scores.copy()
    with_gap[0, 0] = np.nan
    assert variation(with_gap).mean == pytest.approx(np.nanmean(with_gap))
