"""What the plots of a comparison share, and the one of the search."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.contest.selection import SEARCH, Record
from ofmu_jax.runs.folder import write_figure

_MARKERS = "osD^vP*X<>hp8d"
_LINES = ("-", "--", ":")


def plot_sensitivity(records: Iterable[Record], path: pathlib.Path) -> None:
    """The objectives of every method's trials, best first: what share of them reaches which.

    Args:
      records: as `summarise` takes them; those of the search are shown.
      path: of the PNG, written whole or not at all.
    """
    objectives: dict[str, list[float]] = {}
    for record in records:
        if record["stage"] == SEARCH:
            objectives.setdefault(record["method"], []).append(record["objective"])
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    look = styles(objectives)
    for name in sorted(objectives, key=lambda name: max(objectives[name]), reverse=True):
        values = sorted(objectives[name], reverse=True)
        shares = [100 * (rank + 1) / len(values) for rank in range(len(values))]
        axes.step(
            [0, *shares],
            [values[0], *values],
            where="pre",
            label=name,
            linewidth=1.2,
            markersize=5,
            **look[name],
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the trials (%)")
    axes.set_ylabel("objective that they reach at least")
    axes.set_title("How much each method depends on its setting: high and flat is better")
    axes.grid(alpha=0.3)
    legend(figure, axes)
    write_figure(path, figure)


def place(axes: Any, summary: Mapping[str, Any], across: str, up: str) -> None:
    """Draws every ranked method's mean of two figures, with bars for their intervals."""
    look = styles(summary["methods"])
    for name in summary["ranking"]:
        figures = summary["methods"][name]["figures"]
        x, y = figures[across], figures[up]
        if not (x and y):  # all its runs diverged
            continue
        axes.errorbar(
            x["mean"],
            y["mean"],
            xerr=_reach(x),
            yerr=_reach(y),
            color=look[name]["color"],
            marker=look[name]["marker"],
            markersize=9,
            markeredgecolor="white",
            elinewidth=1,
            capsize=2.5,
            label=name,
            linestyle="none",
            zorder=3,
        )


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A look for each method, the same in all plots of the same methods."""
    return {
        name: {
            "color": f"C{index % 10}",
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _LINES[index // 10 % len(_LINES)],
        }
        for index, name in enumerate(sorted(names))
    }


def _reach(interval: Mapping[str, Any]) -> list[list[float]] | None:
    """How far an interval reaches to both sides of its mean."""
    if interval["low"] is None:
        return None
    return [[interval["mean"] - interval["low"]], [interval["high"] - interval["mean"]]]


def legend(figure: Any, axes: Any) -> None:
    """The methods beside the panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
