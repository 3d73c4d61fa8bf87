"""The table and the plot over the requests of a service, from its records alone."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.atomic import write_atomic
from ofmu_jax.requests.service import ASIDE, Service
from ofmu_jax.runs.folder import write_figure

RESULTS, REPORT, PLOT = "requests.jsonl", "report.md", "requests.png"


def write_report(service: Service) -> None:
    """Writes requests.jsonl, report.md and requests.png, each whole or not at all."""
    lines = [json.dumps(result(record)) + "\n" for record in service.records]
    write_atomic(service.folder / RESULTS, "".join(lines))
    aside = service.folder / ASIDE
    missed = sorted(path.name for path in aside.iterdir()) if aside.is_dir() else []
    text = ["# Requests served", "", table(service.records), ""]
    text += [
        "forget: mean answer probability of the request's own items; past: the largest such mean "
        "of all requests so far; kept: the mean on what remains; neighbours: on the remaining "
        "items of authors of whom something is forgotten; unseen: on items of the same kind that "
        "no model was trained on.",
        "",
        f"![over the requests]({PLOT})",
        "",
    ]
    if missed:
        text += [f"Kept aside, as thresholds were missed: {', '.join(missed)}.", ""]
    if service.records:
        plot(service.records, service.folder / PLOT)
    write_atomic(service.folder / REPORT, "\n".join(text))


def result(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's line of requests.jsonl."""
    names = [request["id"] for request in record["requests"]]
    figures, seconds = record["metrics"], record["seconds"]
    return {"number": record["number"], "ids": names, "seconds": seconds, "metrics": figures}


def row(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of one line of the table."""
    metrics = record["metrics"]
    all_requests = metrics["requests"]
    own = [all_requests[request["id"]]["probability"] for request in record["requests"]]
    return {
        "forget": max(own),
        "past": max(figures["probability"] for figures in all_requests.values()),
        "memorised": max(figures["memorised"] for figures in all_requests.values()),
        **{
            name: metrics[name]
            for name in ("kept", "neighbours", "unseen", "utility", "utility_ratio")
        },
        "seconds": record["seconds"],
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, a row per record."""
    rows = {_label(record): row(record) for record in records}
    if not rows:
        return "None yet."
    columns = list(next(iter(rows.values())))
    lines = [
        f"| request | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for label, values in rows.items():
        lines.append(f"| {label} | {' | '.join(_cell(values[name]) for name in columns)} |")
    return "\n".join(lines)


def plot(records: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Every request's answer probability after each, and the utility ratio."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    numbers = [record["number"] for record in records]
    for name in records[-1]["metrics"]["requests"]:
        points = [
            (record["number"], record["metrics"]["requests"][name]["probability"])
            for record in records
            if name in record["metrics"]["requests"]
        ]
        left.plot(*zip(*points, strict=True), marker=".", label=name, linewidth=1)
    unseen = [record["metrics"]["unseen"] for record in records]
    if all(value is not None for value in unseen):
        left.plot(numbers, unseen, color="grey", linestyle=":", label="unseen items")
    left.set_ylabel("mean answer probability of a request's items")
    left.set_ylim(bottom=0)
    if len(records[-1]["metrics"]["requests"]) <= 12:
        left.legend(fontsize=7, ncols=2)
    for name in ("utility_ratio", "kept"):
        values = [record["metrics"][name] for record in records]
        right.plot(numbers, values, marker=".", label=name.replace("_", " "))
    right.set_ylim(0, 1.1)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("requests served")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    write_figure(path, figure)


def _label(record: Mapping[str, Any]) -> str:
    names = [request["id"] for request in record["requests"]]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
