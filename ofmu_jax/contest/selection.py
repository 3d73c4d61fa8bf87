"""Which trial's setting is chosen.

A trial is one run: with few items its objective is as much chance as merit, and the largest of many
is the luckiest of them. The best few can be run again before one is chosen.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SEARCH, CONFIRM, FINAL, REFERENCE = "search", "confirm", "final", "reference"
"""Stages of a comparison: trials, further runs of the best ones, runs of the chosen setting on the
other half of the items, and the models before unlearning."""

CONFIRMING_SEED = 10_000
"""The first seed of further runs; those of the table's runs are small numbers."""

Record = Mapping[str, Any]


def finalists(records: Sequence[Record], count: int) -> list[Record]:
    """The trials with the largest objectives, best first; of equals the first drawn.

    Args:
      records: of one method, of any stage; of the same trial the last one holds.
      count: how many, at most; trials that diverged are none.
    """
    trials = {r["trial"]: r for r in records if r["stage"] == SEARCH}
    finished = [r for r in trials.values() if r["status"] == "ok"]
    return sorted(finished, key=lambda r: (-r["objective"], r["trial"]))[:count]


def best_trial(records: Sequence[Record]) -> Record | None:
    """The trial whose setting is chosen; None if all diverged.

    It is the one with the largest mean objective over all its runs, among those that were run again
    or, if none was, among all. A run that diverged counts with its objective.

    Args:
      records: of one method, of any stage; of the same trial and seed the last one holds.
    """
    again: dict[int, dict[int, float]] = {}
    for r in records:
        if r["stage"] == CONFIRM:
            again.setdefault(r["trial"], {})[r["seed"]] = r["objective"]
    trials = finalists(records, len(records))
    if again:
        trials = [r for r in trials if r["trial"] in again]
    return max(
        trials,
        key=lambda r: statistics.fmean([r["objective"], *again.get(r["trial"], {}).values()]),
        default=None,
    )
