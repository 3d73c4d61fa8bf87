"""Costs of the methods, and how OFMU's grow."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.runs.folder import write_figure

_GOALS = {"fast": 21, "exact, trajectory": 37, "exact": 66}


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    """A panel of the main table and one per curve; parts not measured are left out.

    Args:
      results: as the benchmark writes them.
      path: of the PNG.
    """
    curves = {k: v for k, v in (results["curves"] or {}).items() if k != "setting"}
    if results["devices"] is not None:
        curves["devices"] = {k: v for k, v in results["devices"].items() if k != "setting"}
    figure = plt.figure(figsize=(15, 9), layout="constrained")
    grid = figure.add_gridspec(3, 4)
    if results["main"] is not None:
        _bars(figure.add_subplot(grid[:, :2]), results["main"]["rows"])
    for index, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[index // 2, 2 + index % 2])
        _curve(axes, name, points)
    write_figure(path, figure)


def _bars(axes: Any, rows: dict[str, Any]) -> None:
    shown = {k: r["g-e"] for k, r in rows.items() if r["g-e"] is not None and "alone" not in k}
    names = sorted(shown, key=lambda name: -shown[name]["median"])
    medians = [shown[name]["median"] for name in names]
    spread = [
        [max(shown[n]["median"] - shown[n]["low"], 0) for n in names],
        [max(shown[n]["high"] - shown[n]["median"], 0) for n in names],
    ]
    axes.barh(names, medians, xerr=spread, color="#4c78a8")
    axes.plot([rows[n]["flops"] for n in names], names, "k|", label="FLOPs")
    for mode, goal in _GOALS.items():
        axes.plot([goal], [f"ofmu, T = 5, {mode}"], "rd", label="limit" if mode == "fast" else None)
    axes.set_xlabel("gradients per step")
    axes.legend(loc="upper right")
    axes.grid(alpha=0.3, axis="x")


def _curve(axes: Any, name: str, points: dict[str, Any]) -> None:
    values = [int(value) for value in points]
    for method in next(iter(points.values()))["rows"]:
        costs = [point["rows"][method]["g-e"] for point in points.values()]
        if None not in costs:
            low_high = [[c["low"] for c in costs], [c["high"] for c in costs]]
            axes.plot(values, [c["median"] for c in costs], "o-", label=method)
            axes.fill_between(values, *low_high, alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(name)
    axes.set_ylabel("gradients per step")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
