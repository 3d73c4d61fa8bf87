"""Which trial is chosen where the best are run again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.contest.selection import best_trial, finalists

SEEDS = (10_001, 10_002)


def run(trial, objective, stage="search", seed=0):
    """A run with an objective, or one that diverged if that is None."""
    status = "diverged" if objective is None else "ok"
    return {
        "stage": stage,
        "trial": trial,
        "seed": seed,
        "status": status,
        "objective": objective or 0.0,
    }


def confirmed(trial, *objectives):
    return [run(trial, o, "confirm", seed) for o, seed in zip(objectives, SEEDS, strict=True)]


def test_the_luckiest_trial_gives_way_to_one_that_lasts():
    trials = [run(0, 0.9), run(1, 0.7), run(2, 0.6), run(3, None)]
    assert [r["trial"] for r in finalists(trials, 2)] == [0, 1]
    assert best_trial(trials)["trial"] == 0
    again = [*confirmed(0, 0.1, 0.2), *confirmed(1, 0.5, 0.6)]
    assert best_trial([*again, *trials])["trial"] == 1
    # What was not run again is not chosen, whatever its one objective.
    assert best_trial([*trials, *confirmed(2, 0.1, 0.1)])["trial"] == 2


def test_a_further_run_that_diverges_counts_as_nothing():
    trials = [run(0, 0.9), run(1, 0.4)]
    assert best_trial([*trials, *confirmed(0, None, None), *confirmed(1, 0.4, 0.3)])["trial"] == 1


def test_finals_do_not_decide():
    trials = [run(0, 0.5), run(1, 0.4)]
    assert best_trial([*trials, run(1, 1.0, "final", 1)])["trial"] == 0


@pytest.mark.parametrize("records", [[], [run(0, None)], [run(0, None), run(1, None)]])
def test_none_is_chosen_where_none_finished(records):
    assert best_trial(records) is None and finalists(records, 3) == []


@given(st.lists(st.floats(0, 1) | st.none(), max_size=8), st.integers(1, 8))
def test_finalists_are_the_best_and_the_first_of_equals(objectives, count):
    trials = [run(number, objective) for number, objective in enumerate(objectives)]
    found = finalists(trials[::-1], count)
    finished = [(-o, number) for number, o in enumerate(objectives) if o is not None]
    assert [r["trial"] for r in found] == [number for _, number in sorted(finished)[:count]]


def test_of_the_same_run_the_last_record_holds():
    trials = [run(0, 0.9), run(1, 0.5), run(0, 0.1)]
    assert best_trial(trials)["trial"] == 1
    again = [*confirmed(0, 0.9, 0.9), *confirmed(1, 0.5, 0.5), *confirmed(0, 0.0, 0.0)]
    assert best_trial([*trials, *again])["trial"] == 1
