import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.contest.significance import Interval, disjoint, holm, mean_interval, paired_p
from ofmu_jax.errors import InputError

VALUES = st.floats(-100, 100)
PROBABILITIES = st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6)


@pytest.mark.parametrize(
    ("values", "level", "quantile"),
    [
        # Quantiles of Student's t at (1 + level) / 2 from its tables.
        ([1.0, 2.0, 3.0], 0.95, 4.3027),
        ([1.0, 2.0, 3.0], 0.9, 2.9200),
        ([4.0, 8.0], 0.95, 12.7062),
        ([0.1, 0.5, 0.2, 0.9, 0.3], 0.95, 2.7764),
    ],
)
def test_the_interval_is_the_tabulated_quantile_of_standard_errors(values, level, quantile):
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    margin = quantile * math.sqrt(variance / len(values))
    actual = mean_interval(values, level)
    assert actual == pytest.approx((mean, mean - margin, mean + margin), abs=2e-4)


def test_one_value_has_no_interval():
    mean, low, high = mean_interval([0.7])
    assert mean == 0.7 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7])
def test_equal_values_have_an_interval_of_no_length(value):
    mean, low, high = mean_interval([value] * 7)
    assert low == mean == high == pytest.approx(value)


def test_a_mean_of_nothing_or_at_no_level_is_refused():
    with pytest.raises(InputError, match="at least one value"):
        mean_interval([])
    for level in (0, 1, 1.5, math.nan):
        with pytest.raises(InputError, match="level must be between 0 and 1"):
            mean_interval([1.0, 2.0], level)


@given(st.lists(VALUES, min_size=2, max_size=8), VALUES)
def test_the_interval_moves_with_its_values(values, shift):
    base, moved = mean_interval(values), mean_interval([v + shift for v in values])
    assert base.low <= base.mean <= base.high
    np.testing.assert_allclose(moved, np.array(base) + shift, atol=1e-6)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 4))
    covered = [low <= 3.0 <= high for _, low, high in map(mean_interval, samples)]
    assert 0.94 < np.mean(covered) < 0.96


def test_two_pairs_have_the_closed_form_of_one_degree_of_freedom():
    # t with one degree of freedom is Cauchy: p = 1 - 2 / pi atan |t|; here t = 2 / 1.
    assert paired_p([2.0, 5.0], [1.0, 2.0]) == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_three_pairs_have_the_closed_form_of_two_degrees_of_freedom():
    # p = 1 - |t| / sqrt(t² + 2); differences 2, 3, 4 have t = 3 / (1 / sqrt 3).
    t = 3 * math.sqrt(3)
    expected = 1 - t / math.sqrt(t**2 + 2)
    assert paired_p([3.0, 1.0, 4.0], [1.0, -2.0, 0.0]) == pytest.approx(expected)


def test_pairs_matter():
    a, b = [1.0, 5.0, 9.0], [0.9, 4.8, 8.9]
    assert paired_p(a, b) < 0.1 < 0.5 < paired_p(a, b[::-1])


def test_equal_differences_take_the_limit_of_the_test():
    assert paired_p([0.5, 0.7], [0.5, 0.7]) == 1.0
    assert paired_p([1.5, 2.5], [1.0, 2.0]) == 0.0
    assert paired_p([1.0, 2.0], [1.5, 2.5]) == 0.0


def test_too_few_pairs_have_no_p():
    assert math.isnan(paired_p([], []))
    assert math.isnan(paired_p([1.0], [2.0]))


def test_unpaired_values_are_refused():
    with pytest.raises(InputError, match="got 2 and 1"):
        paired_p([1.0, 2.0], [1.0])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8))
def test_p_is_a_probability_that_takes_no_side(pairs):
    a, b = zip(*pairs, strict=True)
    assert 0 <= paired_p(a, b) <= 1
    assert paired_p(a, b) == paired_p(b, a)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8))
def test_the_test_and_the_interval_of_the_differences_agree(differences):
    _, low, high = mean_interval(differences)
    p = paired_p(differences, [0] * len(differences))
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (not low <= 0 <= high)


def test_holm_on_an_example_by_hand():
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1 = .02, .03, .06, .04; then made monotone.
    actual = holm({"a": 0.04, "b": 0.005, "c": 0.03, "d": 0.01})
    assert list(actual) == ["a", "b", "c", "d"]
    assert actual == pytest.approx({"a": 0.06, "b": 0.02, "c": 0.06, "d": 0.03})


def test_holm_is_capped_and_leaves_missing_values_aside():
    actual = holm({"a": 0.6, "missing": math.nan, "b": 0.7, "c": 0.01})
    assert math.isnan(actual.pop("missing"))
    assert actual == pytest.approx({"a": 1.0, "b": 1.0, "c": 0.03})
    assert holm({}) == {}


def test_holm_refuses_what_is_no_probability():
    for p in (-0.1, 1.1):
        with pytest.raises(InputError, match=f"got {p} for x"):
            holm({"x": p})


@given(PROBABILITIES)
def test_holm_lies_between_the_raw_values_and_bonferroni_s_in_their_order(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, len(p_values) * p)
        for other, q in p_values.items():
            assert p > q or adjusted[name] <= adjusted[other]
    if p_values:
        least = min(p_values, key=p_values.__getitem__)
        assert adjusted[least] == min(1, len(p_values) * p_values[least])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 1), (2, 3), True),
        ((0, 2), (2, 3), False),
        ((0, 9), (2, 3), False),
        ((0, 1), (0, 1), False),
        ((0, 1), (math.nan, math.nan), False),
    ],
)
def test_disjoint(a, b, expected):
    first, second = Interval(0, *a), Interval(0, *b)
    assert disjoint(first, second) == disjoint(second, first) == expected
