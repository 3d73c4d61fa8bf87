"""The report of `ofmu attack`: a page, curves, and the attack that recovers most."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.runs.folder import write_figure

_MEASURES = {
    "probability": "answer probability",
    "rouge": "ROUGE-L recall",
    "choice": "right answers chosen",
}
_COLUMNS = (
    "setting",
    "measure",
    "original, before",
    "unlearned, before",
    "after",
    "retrained, before",
    "after",
    "recovery",
    "95 % interval",
    "retrained's",
    "excess",
    "95 % interval",
)


def recovers_most(results: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The attack with the greatest excess recovery, or gain without an original; and its setting.

    None if nothing was there to recover.
    """

    def size(entry: tuple[str, Mapping[str, Any]]) -> float:
        found = entry[1]["recovery"]
        return float(found["excess_gain"] if found["excess"] is None else found["excess"])

    return max(results["strongest"].items(), key=size, default=None)


def verdict(results: Mapping[str, Any]) -> str:
    """One line: which attack recovers most, and how much."""
    most = recovers_most(results)
    if most is None:
        return "no attack had anything to recover: the model knows what the original one knows"
    name, row = most
    found, measure = row["recovery"], _MEASURES[row["measure"]]
    said = f"{name} recovers most ({row['setting']}, {measure}): "
    if found["excess"] is None:
        return said + f"a gain of {found['excess_gain']:.3f} beyond the retrained model's"
    return said + (
        f"{found['excess']:.3f} {_interval(found['excess_interval'])} of what was forgotten beyond "
        f"the retrained model's {found['retrained']:.3f}"
    )


def report(results: Mapping[str, Any], model: str, curves: str) -> str:
    """The Markdown page."""
    lines = [
        f"# Attacks on {model}",
        "",
        verdict(results) + ".",
        "",
        "Before and after are means over items. Recovery is (after - before) / (original before - "
        "before); the retrained model is attacked in the same way, and excess is what the "
        "unlearned model recovers beyond it. Intervals of 95 % are over items. A dash: hardly "
        "anything was forgotten by that measure, or there is no original model.",
        "",
        f"![curves]({curves})",
        "",
    ]
    for name, rows in results["attacks"].items():
        lines += [f"## {name}", "", "| " + " | ".join(_COLUMNS) + " |"]
        lines.append("|---" * len(_COLUMNS) + "|")
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
        lines.append("")
    if results["variation"]:
        lines += [
            "## Variation over transformations",
            "",
            "Answer probability over the questions as they are and in other words, formats and "
            "languages: the mean, the standard deviation of the transformations' means, and the "
            "variance over an item's transformations, averaged over items.",
            "",
            "| model | transformations | mean | between | within |",
            "|---|---|---|---|---|",
        ]
        for name, row in results["variation"].items():
            lines.append(
                f"| {name} | {row['transformations']} | {row['mean']:.3f} | {row['between']:.3f} | "
                f"{row['within']:.4f} |"
            )
        lines.append("")
    lines.append(", ".join(f"{k} {v}" for k, v in results["versions"].items()) + ".")
    return "\n".join([*lines, ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    before, after, found = row["before"], row["after"], row["recovery"]
    return [
        row["setting"],
        _MEASURES[row["measure"]],
        _number(before.get("original")),
        _number(before["unlearned"]),
        _number(after["unlearned"]),
        _number(before["retrained"]),
        _number(after["retrained"]),
        _number(found["unlearned"]),
        _interval(found["unlearned_interval"]),
        _number(found["retrained"]),
        _number(found["excess"]),
        _interval(found["excess_interval"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: list[float] | None) -> str:
    return "-" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def plot_curves(results: Mapping[str, Any], path: pathlib.Path) -> None:
    """Each attack that has settings on a scale, against it; nothing is drawn of the others."""
    panels = {
        name: curves
        for name, rows in results["attacks"].items()
        if (curves := _curves(rows, results["before"]))
    }
    columns = min(max(len(panels), 1), 3)
    depth = -(-max(len(panels), 1) // columns)
    figure, grid = plt.subplots(
        depth, columns, figsize=(4.2 * columns, 3.4 * depth), constrained_layout=True, squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, curves) in zip(grid.flat, panels.items(), strict=False):
        for label, points in curves.items():
            style = ":" if label.startswith("retrained") else "-"
            style = "--" if label.startswith("original") else style
            axes.plot(
                *zip(*sorted(points), strict=True), style, marker=".", label=label, linewidth=1
            )
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.supylabel("score (answer probability; of probing, right answers chosen)", fontsize=8)
    write_figure(path, figure)


def _curves(
    rows: list[Mapping[str, Any]], before: Mapping[str, Mapping[str, float]]
) -> dict[str, list[tuple[float, float]]]:
    """Points by model and curve; and the original's level without an attack."""
    curves: dict[str, list[tuple[float, float]]] = {}
    placed = [row for row in rows if row["x"] is not None]
    for row in placed:
        for model, value in row["after"].items():
            curves.setdefault(f"{model}, {row['curve']}", []).append((row["x"], value))
    if placed and "original" in before[placed[0]["measure"]]:
        places = sorted({row["x"] for row in placed})
        level = before[placed[0]["measure"]]["original"]
        curves["original, unattacked"] = [(x, level) for x in places]
    return curves
