"""From the records of a comparison to its figures: chosen settings, intervals, tests, costs."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ofmu_jax.contest.measures import Measures
from ofmu_jax.contest.selection import CONFIRM, FINAL, SEARCH, Record, best_trial
from ofmu_jax.contest.significance import disjoint, holm, mean_interval, paired_p

COSTS = ("gradient_equivalents", "seconds", "peak_memory_gib")
NEAR_BEST = 0.95


def summarise(
    records: Iterable[Record], methods: Sequence[str], measures: Measures, pairs: int = 1
) -> dict[str, Any]:
    """The figures of every method, from the records of its trials and its final runs.

    Of records of the same trial, or of the same final seed, the last one holds.

    Args:
      records: of stage "search", "confirm" and "final"; other stages and methods are left aside.
      methods: the methods to report, in the order to report them.
      measures: which figures there are.
      pairs: of models, from which the final runs started in turn. Runs from one pair are not
        independent: where there are several pairs, intervals and tests are over the means of each.

    Returns:
      JSON types only, None for what is not known (yet):
        `methods`: by name,
          `trials`, `diverged_trials`: numbers of them;
          `best`: `trial`, `point` and `objective` of the trial that `best_trial` chooses; None if
            none finished;
          `objective_median`, `objective_p90`: quantiles over all trials, diverged ones being 0;
          `near_best_share`: the share of all trials with an objective of at least 95 % of the
            largest; None if that is 0;
          `search_seconds`: seconds of all trials and further runs of the best ones together;
          `finals`, `diverged_finals`: numbers of final runs;
          `figures`: a mean with the ends of its 95 % interval over seeds or pairs of models
            (`mean`, `low`, `high`; the ends None for one) for every figure of the measures. A
            diverged run has their `diverged_score` and nothing else;
          `forget_quality_median`: over the final runs that did not diverge, where there is such a
            figure;
          `per_seed`: `seed`, and a value per seed for every such name of the measures;
          `against`: the comparison of scores with `method`, the best of the others by mean score:
            `seeds` (how many, or how many pairs of models, both have), `difference` (an interval,
            as above, of the paired differences), `p` (paired t-test), `holm_p` (adjusted for how
            many tests there are: the first two methods have theirs in common) and `disjoint`
            (whether the intervals of the two means are);
          `cost`: the mean over final runs for every name in `COSTS`;
        `ranking`: the methods that have final runs, best mean score first.
    """
    trials: dict[str, dict[int, Record]] = {name: {} for name in methods}
    again: dict[str, dict[tuple[int, int], Record]] = {name: {} for name in methods}
    finals: dict[str, dict[int, Record]] = {name: {} for name in methods}
    for record in records:
        if record["method"] in trials:
            if record["stage"] == SEARCH:
                trials[record["method"]][record["trial"]] = record
            elif record["stage"] == CONFIRM:
                again[record["method"]][record["trial"], record["seed"]] = record
            elif record["stage"] == FINAL:
                finals[record["method"]][record["seed"]] = record
    scores = {
        name: _by_unit(runs, lambda run: _score(run, measures), pairs)
        for name, runs in finals.items()
        if runs
    }
    means = {name: statistics.fmean(values.values()) for name, values in scores.items()}
    against = _comparisons(scores, means)
    return {
        "methods": {
            name: {
                **_search(trials[name], [*again[name].values()]),
                **_final(finals[name], measures, pairs),
                "against": against.get(name),
            }
            for name in methods
        },
        "ranking": sorted(means, key=means.__getitem__, reverse=True),
    }


def _score(record: Record, measures: Measures) -> float:
    if record["status"] == "diverged":
        return measures.diverged_score
    return float(record["figures"]["score"])


def _figure(record: Record, name: str, measures: Measures) -> float | None:
    return _score(record, measures) if name == "score" else record["figures"].get(name)


def _by_unit(
    finals: Mapping[int, Record], value: Callable[[Record], float | None], pairs: int
) -> dict[int, float]:
    """Values by seed, of which those that are unknown are left out; or means by pair of models."""
    values: dict[int, list[float]] = {}
    for seed in sorted(finals):
        known = _known([value(finals[seed])])
        if known:
            values.setdefault(seed % pairs if pairs > 1 else seed, []).extend(known)
    return {unit: statistics.fmean(known) for unit, known in values.items()}


def _search(trials: Mapping[int, Record], again: Sequence[Record]) -> dict[str, Any]:
    runs = [trials[number] for number in sorted(trials)]
    objectives = [run["objective"] for run in runs]
    finished = [run for run in runs if run["status"] == "ok"]
    best = best_trial([*runs, *again])
    largest = max((run["objective"] for run in finished), default=0.0)
    near = None
    if largest > 0:
        least = NEAR_BEST * largest
        near = sum(objective >= least for objective in objectives) / len(runs)
    return {
        "trials": len(runs),
        "diverged_trials": len(runs) - len(finished),
        "best": {name: best[name] for name in ("trial", "point", "objective")} if best else None,
        "objective_median": float(np.median(objectives)) if runs else None,
        "objective_p90": float(np.quantile(objectives, 0.9)) if runs else None,
        "near_best_share": near,
        "search_seconds": math.fsum(run["cost"]["seconds"] for run in [*runs, *again]),
    }


def _final(finals: Mapping[int, Record], measures: Measures, pairs: int) -> dict[str, Any]:
    runs = [finals[seed] for seed in sorted(finals)]
    qualities = _known(run["figures"].get("forget_quality") for run in runs)

    def spread(name: str) -> dict[str, float | None] | None:
        return _interval(_by_unit(finals, lambda r: _figure(r, name, measures), pairs).values())

    return {
        "finals": len(runs),
        "diverged_finals": sum(run["status"] == "diverged" for run in runs),
        "figures": {name: spread(name) for name in measures.figures},
        "forget_quality_median": statistics.median(qualities) if qualities else None,
        "per_seed": {
            "seed": sorted(finals),
            **{name: [_figure(run, name, measures) for run in runs] for name in measures.per_seed},
        },
        "cost": {name: _mean(run["cost"][name] for run in runs) for name in COSTS},
    }


def _comparisons(
    scores: Mapping[str, Mapping[int, float]], means: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Each method against the best of the others; by name, without those that have no other."""
    compared: dict[str, dict[str, Any]] = {}
    # The best two are compared with each other, which is one test.
    tests: dict[frozenset[str], float] = {}
    intervals = {name: mean_interval([*values.values()]) for name, values in scores.items()}
    for name in scores:
        others = [other for other in scores if other != name]
        if not others:
            continue
        best = max(others, key=means.__getitem__)
        seeds = [seed for seed in scores[name] if seed in scores[best]]
        own, theirs = ([scores[key][seed] for seed in seeds] for key in (name, best))
        tests[frozenset((name, best))] = paired_p(own, theirs)
        compared[name] = {
            "method": best,
            "seeds": len(seeds),
            "difference": _interval(a - b for a, b in zip(own, theirs, strict=True)),
            "disjoint": disjoint(intervals[name], intervals[best]),
        }
    adjusted = holm(tests)
    for name, values in compared.items():
        test = frozenset((name, values["method"]))
        values |= {"p": _finite(tests[test]), "holm_p": _finite(adjusted[test])}
    return compared


def _interval(values: Iterable[float | None]) -> dict[str, float | None] | None:
    known = _known(values)
    if not known:
        return None
    return {k: _finite(v) for k, v in mean_interval(known)._asdict().items()}


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
