import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.contest.answers import ANSWERS
from ofmu_jax.contest.significance import mean_interval, paired_p
from ofmu_jax.contest.summary import COSTS
from ofmu_jax.contest.summary import summarise as summarise_by


def summarise(records, methods):
    return summarise_by(records, methods, ANSWERS)


def cost(**values):
    return {
        "seconds": 2.0,
        "compile_seconds": 30.0,
        "gradient_equivalents": 100.0,
        "peak_memory_gib": 1.0,
        **values,
    }


def trial(method, number, objective, **costs):
    """A trial with an objective, or one that diverged if that is None."""
    return {
        "stage": "search",
        "method": method,
        "trial": number,
        "seed": 0,
        "point": {"learning_rate": 10.0**-number},
        "status": "diverged" if objective is None else "ok",
        "objective": objective or 0.0,
        "figures": {},
        "cost": cost(**costs),
    }


def final(method, seed, score, figures=None, **costs):
    """A final run with a score, or one that diverged if that is None."""
    return {
        "stage": "final",
        "method": method,
        "trial": 0,
        "seed": seed,
        "point": {},
        "status": "diverged" if score is None else "ok",
        "objective": 0.5,
        "figures": {} if score is None else {"score": score, **(figures or {})},
        "cost": cost(**costs),
    }


def finals(method, *scores):
    return [final(method, seed, score) for seed, score in enumerate(scores)]


def one(records, method="a"):
    return summarise(records, [method])["methods"][method]


def test_a_method_without_records_has_all_keys_and_no_figures():
    empty, full = one([]), one([trial("a", 0, 0.5), final("a", 0, 0.5)])
    assert empty.keys() == full.keys()
    counts = ("trials", "diverged_trials", "finals", "diverged_finals", "search_seconds")
    assert [empty[name] for name in counts] == [0] * 5
    assert empty["figures"] == dict.fromkeys(ANSWERS.figures)
    assert empty["cost"] == dict.fromkeys(COSTS)
    assert empty["per_seed"] == {"seed": [], **{name: [] for name in ANSWERS.per_seed}}
    others = ("best", "objective_median", "objective_p90", "near_best_share", "against")
    assert [empty[name] for name in others] == [None] * 5
    assert empty["forget_quality_median"] is None
    assert summarise([], ["a"])["ranking"] == []


def test_the_best_trial_is_the_first_of_the_largest_that_finished():
    records = [trial("a", 3, 0.8), trial("a", 1, 0.8), trial("a", 0, 0.2), trial("b", 0, 0.9)]
    best = {"trial": 1, "point": {"learning_rate": 0.1}, "objective": 0.8}
    assert one(records)["best"] == best
    failed = [trial("a", 0, None), trial("a", 1, 0.0)]
    assert one(failed)["best"]["trial"] == 1
    assert one(failed[:1])["best"] is None


def test_trials_are_counted_with_those_that_diverged():
    objectives = [None, 0.95, 1.0, 0.949, None, 0.96, 0.0, 0.5]
    actual = one([trial("a", n, o, seconds=n + 1.0) for n, o in enumerate(objectives)])
    assert (actual["trials"], actual["diverged_trials"]) == (8, 2)
    assert actual["near_best_share"] == 3 / 8
    # Sorted: 0, 0, 0, .5, .949, .95, .96, 1.
    assert actual["objective_median"] == pytest.approx((0.5 + 0.949) / 2)
    assert actual["objective_p90"] == pytest.approx(0.96 + 0.3 * 0.04)
    assert actual["search_seconds"] == 36.0


def test_a_search_that_only_failed_has_no_share_near_its_best():
    assert one([trial("a", 0, 0.0), trial("a", 1, None)])["near_best_share"] is None


def test_figures_are_means_over_seeds_with_t_intervals():
    utilities = [0.5, 0.7, 0.9]
    actual = one([final("a", s, 0.1, {"relative_utility": u}) for s, u in enumerate(utilities)])
    expected = mean_interval(utilities)._asdict()
    assert actual["figures"]["relative_utility"] == expected
    assert actual["figures"]["utility"] is None
    assert set(actual["figures"]) == set(ANSWERS.figures)


def test_forget_quality_has_a_median():
    records = [final("a", s, 0.1, {"forget_quality": p}) for s, p in enumerate([0.9, 1e-9, 0.02])]
    assert one(records)["forget_quality_median"] == 0.02


def test_a_diverged_final_run_scores_zero_and_counts_in_no_other_figure():
    figures = {"forget_quality": 0.4, "ks_distance": 0.2, "relative_utility": 0.8}
    records = [final("a", 1, 0.6, figures), final("a", 0, None, seconds=8.0)]
    actual = one(records)
    assert (actual["finals"], actual["diverged_finals"]) == (2, 1)
    assert actual["figures"]["score"]["mean"] == pytest.approx(0.3)
    utility = {"mean": 0.8, "low": None, "high": None}
    assert actual["figures"]["relative_utility"] == utility
    assert actual["forget_quality_median"] == 0.4
    assert actual["per_seed"] == {
        "seed": [0, 1],
        "score": [0.0, 0.6],
        "forget_quality": [None, 0.4],
        "ks_distance": [None, 0.2],
        "relative_utility": [None, 0.8],
    }
    assert actual["cost"]["seconds"] == 5.0


def test_what_was_not_measured_counts_in_no_mean():
    figures = [{"log10_p": None}, {"log10_p": -2.0}, {"log10_p": math.nan}]
    actual = one([final("a", s, 0.1, f, peak_memory_gib=None) for s, f in enumerate(figures)])
    assert actual["figures"]["log10_p"]["mean"] == -2.0
    assert actual["cost"] == {
        "gradient_equivalents": 100.0,
        "seconds": 2.0,
        "peak_memory_gib": None,
    }


def test_methods_are_compared_with_the_best_of_the_others():
    a, b, c = [0.9, 0.8, 0.7], [0.5, 0.6, 0.55], [0.1, 0.2, 0.3]
    records = [*finals("c", *c), *finals("a", *a), *finals("b", *b), *finals("x", 1.0, 1.0, 1.0)]
    summary = summarise(records, ["c", "b", "a", "later"])
    assert summary["ranking"] == ["a", "b", "c"]
    methods = summary["methods"]
    assert list(methods) == ["c", "b", "a", "later"]
    assert [methods[m]["against"]["method"] for m in "abc"] == ["b", "a", "a"]
    assert methods["later"]["against"] is None
    differences = mean_interval([0.4, 0.2, 0.15])._asdict()
    assert methods["a"]["against"]["difference"] == pytest.approx(differences)
    against = {m: methods[m]["against"] for m in "abc"}
    assert against["a"]["p"] == against["b"]["p"] == pytest.approx(paired_p(a, b))
    assert against["c"]["p"] == pytest.approx(paired_p(c, a))
    # Two tests: that of a and b is one. The smaller p times 2; the other, or as large.
    least = min(paired_p(a, b), paired_p(c, a))
    assert min(v["holm_p"] for v in against.values()) == pytest.approx(2 * least)
    assert against["a"]["seeds"] == 3


def test_intervals_are_said_to_be_disjoint_or_not():
    apart = summarise([*finals("a", 0.9, 0.91), *finals("b", 0.1, 0.11)], ["a", "b"])
    near = summarise([*finals("a", 0.9, 0.5), *finals("b", 0.1, 0.6)], ["a", "b"])
    assert [v["against"]["disjoint"] for v in apart["methods"].values()] == [True, True]
    assert [v["against"]["disjoint"] for v in near["methods"].values()] == [False, False]


def test_seeds_are_matched_by_their_number():
    a = [final("a", seed, score) for seed, score in [(2, 0.9), (0, 0.5), (1, 0.7), (9, 0.0)]]
    b = [final("b", seed, score) for seed, score in [(0, 0.4), (1, 0.5), (2, 0.6), (7, 0.0)]]
    against = summarise(a + b, ["a", "b"])["methods"]["a"]["against"]
    assert against["seeds"] == 3
    assert against["difference"]["mean"] == pytest.approx(0.2)
    assert against["p"] == pytest.approx(paired_p([0.5, 0.7, 0.9], [0.4, 0.5, 0.6]))


def test_runs_from_one_pair_of_models_count_once():
    figures = [{"relative_utility": u} for u in (0.2, 0.4, 0.6, 0.8, None, 1.0)]
    scores = [0.1, 0.5, 0.9, 0.3, 0.7, None]
    a = [final("a", s, x, f) for s, (x, f) in enumerate(zip(scores, figures, strict=True))]
    b = finals("b", *([0.0] * 6))
    summary = summarise_by([*a, *b], ["a", "b"], ANSWERS, pairs=3)["methods"]["a"]
    # Seeds 0 and 3 are of pair 0, 1 and 4 of pair 1, 2 and 5 of pair 2; one run diverged.
    means = [0.2, 0.6, 0.45]
    assert summary["figures"]["score"] == pytest.approx(mean_interval(means)._asdict())
    assert summary["figures"]["relative_utility"] == pytest.approx(
        mean_interval([0.5, 0.4, 0.6])._asdict()
    )
    against = summary["against"]
    assert against["seeds"] == 3 and summary["finals"] == 6
    assert against["difference"] == pytest.approx(mean_interval(means)._asdict())
    assert against["p"] == pytest.approx(paired_p(means, [0.0] * 3))
    assert summary["per_seed"]["seed"] == [0, 1, 2, 3, 4, 5]


def test_too_few_seeds_in_common_are_not_tested():
    records = [*finals("a", 0.9), *finals("b", 0.5), final("c", 5, 0.1)]
    methods = summarise(records, ["a", "b", "c"])["methods"]
    assert methods["a"]["against"] == {
        "method": "b",
        "seeds": 1,
        "difference": pytest.approx({"mean": 0.4, "low": None, "high": None}),
        "disjoint": False,
        "p": None,
        "holm_p": None,
    }
    assert methods["c"]["against"]["seeds"] == 0
    assert methods["c"]["against"]["difference"] is None


def test_a_method_alone_is_compared_with_none():
    assert one(finals("a", 0.1, 0.2))["against"] is None


def test_records_of_other_stages_are_left_aside():
    assert one([trial("a", 0, 0.5) | {"stage": "reference"}]) == one([])


def test_the_last_of_repeated_records_holds():
    records = [trial("a", 0, 0.9), trial("a", 0, 0.3), final("a", 1, 0.9), final("a", 1, 0.2)]
    actual = one(records)
    assert (actual["trials"], actual["best"]["objective"]) == (1, 0.3)
    assert (actual["finals"], actual["per_seed"]["score"]) == (1, [0.2])


SCORES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=4)


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(SCORES, SCORES)), st.randoms())
def test_a_summary_is_strict_json_and_knows_no_order_of_the_records(drawn, random):
    records = []
    for method, (objectives, scores) in drawn.items():
        records += [trial(method, n, objective) for n, objective in enumerate(objectives)]
        records += finals(method, *scores)
    expected = summarise(records, "abcd")
    random.shuffle(records)
    assert summarise(records, "abcd") == expected
    assert json.loads(json.dumps(expected, allow_nan=False)) == expected
