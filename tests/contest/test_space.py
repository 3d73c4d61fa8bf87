"""Search spaces: their points, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.contest.space import DRAWS, check_space, corners, draw_points
from ofmu_jax.errors import InputError

SPACE = {
    "learning_rate": [1e-4, 1e-1],
    "delta": {"uniform": [-1.0, 3.0]},
    "kind": {"choices": ["a", "b", "c"]},
}


@given(st.integers(1, 70), st.sampled_from(DRAWS), st.text(max_size=5))
def test_points_lie_within_and_begin_alike_whatever_their_number(count, kind, label):
    points = draw_points(SPACE, count, kind, label)
    assert len(points) == count
    for point in points:
        assert list(point) == list(SPACE)
        assert 0.999e-4 <= point["learning_rate"] <= 1.001e-1
        assert -1 <= point["delta"] <= 3
        assert point["kind"] in ("a", "b", "c")
    assert draw_points(SPACE, 100, kind, label)[:count] == points


@pytest.mark.parametrize("kind", DRAWS)
def test_ranges_are_logarithmic_and_uniform_and_choices_equally_likely(kind):
    points = draw_points(SPACE, 512, kind, "npo")
    for name, middle in (("learning_rate", 10**-2.5), ("delta", 1.0)):
        share = sum(p[name] < middle for p in points) / len(points)
        assert share == pytest.approx(0.5, abs=0.06)
    for choice in ("a", "b", "c"):
        share = sum(p["kind"] == choice for p in points) / len(points)
        assert share == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("entry", [{"uniform": [0.1234, 0.1266]}, [0.1234, 0.1266]])
def test_rounding_leads_past_no_bound(entry):
    values = [p["x"] for p in draw_points({"x": entry}, 4096, "sobol", "npo")]
    assert (min(values), max(values)) == (0.1234, 0.1266)


def test_a_sobol_sequence_fills_each_octave_evenly():
    points = draw_points({"x": [1.0, 256.0]}, 64, "sobol", "npo")
    counts = [sum(2**i <= p["x"] < 2 ** (i + 1) for p in points) for i in range(8)]
    assert min(counts) >= 7 and max(counts) <= 9  # three digits may cross a border


def test_labels_have_sequences_of_their_own():
    assert draw_points(SPACE, 4, "sobol", "npo") != draw_points(SPACE, 4, "sobol", "simnpo")


def test_corners_hold_every_bound_and_choice():
    points = corners(SPACE)
    for name, values in (("learning_rate", {1e-4, 1e-1}), ("delta", {-1.0, 3.0})):
        assert {p[name] for p in points} == values
    assert {p["kind"] for p in points} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "methods.npo: the search space is {}; expected at least one parameter"),
        (None, "the search space is None"),
        ({"x": [0.0, 1.0]}, "the range of x is .*expected .low, high. with 0 < low <= high"),
        ({"x": [2.0, 1.0]}, "low <= high"),
        ({"x": [1.0]}, "low <= high"),
        ({"x": ["a", "b"]}, "low <= high"),
        ({"x": [1.0, float("nan")]}, "low <= high"),
        ({"x": {"uniform": [1.0, 0.0]}}, "expected .low, high. with low <= high"),
        ({"x": {"choices": []}}, "expected at least one choice"),
        ({"x": {"choice": [1]}}, "expected .low, high., .uniform"),
        ({"x": 3.0}, "expected .low, high., .uniform"),
    ],
)
def test_a_space_that_is_none_is_refused(space, message):
    with pytest.raises(InputError, match=message):
        check_space(space, "methods.npo")
