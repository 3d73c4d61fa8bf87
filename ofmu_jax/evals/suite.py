"""A benchmark as named metrics that are computed, or found again, one by one."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ofmu_jax.errors import InputError
from ofmu_jax.evals.statistics import bootstrap_interval
from ofmu_jax.evals.subject import digest
from ofmu_jax.version import __version__

# One metric's results, of JSON types: `agg_value`, and what it is made of in `value_by_index`.
Entry: TypeAlias = dict[str, Any]
Results: TypeAlias = dict[str, Entry]

# Raised when a metric comes to say something else of the same inputs: what is stored holds no more.
_REVISION = 2


class Metric(NamedTuple):
    """How one metric is computed.

    Attributes:
      compute: from the entries of the metrics in `needs` to this one's.
      inputs: all that the result depends on beside the model and `needs`, of JSON types: the items,
        the settings, the figures of another model. It decides whether a stored result still holds.
      needs: metrics that are computed first.
    """

    compute: Callable[[Mapping[str, Entry]], Entry]
    inputs: Any = None
    needs: tuple[str, ...] = ()


class Cost(NamedTuple):
    """What a metric took.

    Attributes:
      items: how many items it is made of.
      seconds: wall time, compilation and the model's passes included where it was the first to
        need them.
      reused: whether it was found stored.
    """

    items: int
    seconds: float
    reused: bool


class Store(Protocol):
    """Where results outlive the process."""

    def read(self, name: str, fingerprint: str) -> tuple[Entry, Cost] | None:
        """A metric's result, if there is one of the same fingerprint."""

    def write(self, name: str, fingerprint: str, entry: Entry, cost: Cost) -> None:
        """Keeps a metric's result, whole or not at all."""


def select(metrics: Mapping[str, Metric], wanted: Iterable[str]) -> dict[str, Metric]:
    """The wanted metrics with all that they need, in the order of `metrics`.

    Raises:
      InputError: there is no such metric.
    """
    chosen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in metrics:
            raise InputError(f"metric {name!r} is unknown here; expected some of {list(metrics)}")
        if name not in chosen:
            chosen.add(name)
            waiting += metrics[name].needs
    return {name: metric for name, metric in metrics.items() if name in chosen}


def run_suite(
    metrics: Mapping[str, Metric],
    model: Any,
    store: Store | None = None,
    report: Callable[[str, Cost], None] = lambda name, cost: None,
) -> tuple[Results, dict[str, Cost]]:
    """Computes metrics in their order, and takes from the store what still holds.

    A stored result holds if the model, the metric's inputs, all that it needs and the version of
    this package and its metrics are those that it was computed with.

    Args:
      metrics: by name; each comes after those that it needs.
      model: the identity of the model, of JSON types, as `Subject.identity` gives it.
      store: where results are kept and found; None computes everything.
      report: is told of each metric as it is done.

    Returns:
      The entries and the costs, by name.
    """
    results: Results = {}
    costs: dict[str, Cost] = {}
    fingerprints: dict[str, str] = {}
    for name, metric in metrics.items():
        needed = {other: results[other] for other in metric.needs}
        needs = [fingerprints[other] for other in metric.needs]
        fingerprint = fingerprints[name] = digest(
            [name, __version__, _REVISION, model, metric.inputs, needs]
        )
        found = None if store is None else store.read(name, fingerprint)
        if found is not None:
            results[name], cost = found[0], found[1]._replace(reused=True)
        else:
            start = time.perf_counter()
            entry = metric.compute(needed)
            cost = Cost(_count(entry), time.perf_counter() - start, False)
            if store is not None:
                store.write(name, fingerprint, entry, cost)
            results[name] = entry
        costs[name] = cost
        report(name, cost)
    return results, costs


def _count(entry: Entry) -> int:
    """Items of an entry, or of the sets that it compares."""
    parts = (part for part in (entry, *entry.values()) if isinstance(part, dict))
    return sum(len(part.get("value_by_index", ())) for part in parts)


def alone(function: Callable[..., Entry], *arguments: Any) -> Callable[..., Entry]:
    """The `compute` of a metric that needs no other: calls a function with given arguments."""
    return lambda done: function(*arguments)


def entry(agg_value: float | None, **columns: Any) -> Entry:
    """One metric's results; each column, an array or a sequence, has a value per item.

    >>> entry(0.5, prob=[0.25, 0.75], question=["a", "b"])["value_by_index"]["1"]
    {'prob': 0.75, 'question': 'b'}
    """
    lists = [x.tolist() if hasattr(x, "tolist") else x for x in columns.values()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    return {
        "agg_value": agg_value,
        "value_by_index": {str(index): row for index, row in enumerate(rows)},
    }


def averaged(values: np.ndarray, groups: np.ndarray | None = None, **columns: Any) -> Entry:
    """The entry of a metric that is a mean over items, with its interval.

    Args:
      values: (N,), what is averaged.
      groups: (N,), which items are not independent of one another; None where all are.
      **columns: as of `entry`.
    """
    mean = {
        "agg_value": float(values.mean()),
        "interval": bootstrap_interval(np.mean, values, groups=[groups], vectorized=True),
    }
    return mean | {"value_by_index": entry(None, **columns)["value_by_index"]}


def column(entry: Mapping[str, Any], name: str) -> list[Any]:
    """A column of an entry, in the order of its items.

    >>> column(entry(0.5, prob=[0.25, 0.75]), "prob")
    [0.25, 0.75]
    """
    return [row[name] for row in entry["value_by_index"].values()]


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Drops the items from an evaluation.

    >>> summary({"model_utility": {"agg_value": 0.5}, "ra_Q_A_ROUGE": {"agg_value": 0.25}})
    {'model_utility': 0.5, 'ra_Q_A_ROUGE': 0.25}
    """
    return {name: entry["agg_value"] for name, entry in results.items()}
