"""A comparison's tables, plots and report, from its summary and records alone."""

import io
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.contest.summary import Record
from ofmu_jax.runs.folder import write_atomic

REPORT, PARETO, SENSITIVITY = "report.md", "pareto.png", "sensitivity.png"

_NONE = "-"
_MARKERS = "osD^vP*X<>hp8d"
_LINES = ("-", "--", ":")
_LOG_TICKS = (0, -0.5, -1, -2, -5, -10, -20, -50, -100, -200)

_MAIN_TEXT = """\
Every method may try the same number of settings. The setting with the largest objective, the score
on one half of the evaluation items, is then run anew with every seed, and the table shows these
runs on the other half, on which nothing was chosen. All items of the forget set are unlearned.

Score is the harmonic mean of p and of utility relative to the retrained model's, at most 1. p is
the Kolmogorov-Smirnov test's between the truth ratios of the model and of the retrained one on the
forget items, 1 where they cannot be told apart, and D its distance, 0 where they agree. With few
items p takes few values and its mean says little, hence the median. Forget and retain prob are the
probabilities of the right answers per token. Gradients are the cost of a run in units of one
gradient of one batch; seconds are without compilation. All but the median are means over seeds.
A run that diverged has score 0 and counts in no other figure, but in the costs.

Brackets hold Student's t interval of 95 % over seeds. It covers what a seed changes, not the choice
of items, of the data set or of the model. "vs best other" is the mean difference of scores from the
best other method's with the same seeds, and Holm p is the two-sided paired t-test of it, adjusted
by Holm's method for all rows. Which method is the best other is chosen by the same runs, and the
test takes differences to be normal: with few seeds it is a guide. Where all differences are equal,
p is 1 if they are 0, and else 0."""
_SENSITIVITY_TEXT = """\
From the trials of the search, on the half of the items by which settings were chosen; a trial that
diverged has objective 0. A method of which many trials come within 5 % of its best needs less
tuning than one that has a single good setting. The plot shows, for each share of the trials, the
objective that they reach at least."""


def main_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table of the final runs, one row per method, best mean score first.

    Args:
      summary: as from `summarise`.

    Returns:
      The table; methods without final runs come last.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "score": lambda m: _interval(m["figures"]["score"]),
        "median p": lambda m: _p(m["forget_quality_median"]),
        "mean D": lambda m: _mean(m["figures"]["ks_distance"]),
        "relative utility": lambda m: _interval(m["figures"]["relative_utility"]),
        "forget prob": lambda m: _mean(m["figures"]["forget_probability"]),
        "retain prob": lambda m: _mean(m["figures"]["retain_probability"]),
        "vs best other": lambda m: _interval((m["against"] or {}).get("difference")),
        "Holm p": lambda m: _p((m["against"] or {}).get("holm_p")),
        "gradients": lambda m: _size(m["cost"]["gradient_equivalents"]),
        "seconds": lambda m: _size(m["cost"]["seconds"]),
        "peak GiB": lambda m: _number(m["cost"]["peak_memory_gib"], 2),
        "seeds": lambda m: _counts(m["finals"], m["diverged_finals"]),
        "trials": lambda m: _counts(m["trials"], m["diverged_trials"]),
    }
    return _table(columns, {name: summary["methods"][name] for name in _order(summary)})


def sensitivity_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table of the search: how much a method depends on a lucky setting.

    Args:
      summary: as from `summarise`.

    Returns:
      The table, in the order of `main_table`.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "best objective": lambda m: _number((m["best"] or {}).get("objective")),
        "90 % quantile": lambda m: _number(m["objective_p90"]),
        "median": lambda m: _number(m["objective_median"]),
        "trials within 5 % of the best": lambda m: _percent(m["near_best_share"]),
        "trials": lambda m: _counts(m["trials"], m["diverged_trials"]),
        "seconds": lambda m: _size(m["search_seconds"]),
    }
    return _table(columns, {name: summary["methods"][name] for name in _order(summary)})


def settings_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table of the settings that the search chose.

    Args:
      summary: as from `summarise`.

    Returns:
      The table, in the order of `main_table`.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "trial": lambda m: str(m["best"]["trial"]) if m["best"] else _NONE,
        "setting": lambda m: _setting(m["best"]["point"]) if m["best"] else _NONE,
    }
    return _table(columns, {name: summary["methods"][name] for name in _order(summary)})


def reference_table(references: Iterable[Record]) -> str:
    """A Markdown table of the models that unlearning starts from and aims at.

    Args:
      references: records with `method`, the model's name, and its `figures`; one per replicate.

    Returns:
      The table, of means over replicates.
    """
    rows: dict[str, list[Mapping[str, float | None]]] = {}
    for record in references:
        rows.setdefault(record["method"], []).append(record["figures"])

    def column(key: str) -> Callable[[Any], str]:
        return lambda figures: _number(statistics.fmean(f[key] for f in figures))

    columns: dict[str, Callable[[Any], str]] = {
        "score": column("score"),
        "median p": lambda m: _p(statistics.median(f["forget_quality"] for f in m)),
        "mean D": column("ks_distance"),
        "utility": column("utility"),
        "relative utility": column("relative_utility"),
        "forget prob": column("forget_probability"),
        "retain prob": column("retain_probability"),
    }
    return _table(columns, rows)


def _order(summary: Mapping[str, Any]) -> list[str]:
    """The ranked methods, then those without final runs."""
    ranking = summary["ranking"]
    return [*ranking, *(name for name in summary["methods"] if name not in ranking)]


def _table(
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    rows: Mapping[str, Any],
) -> str:
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in rows.items():
        cells = [name, *(cell(values) for cell in columns.values())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no "-0.000"


def _size(value: float | None) -> str:
    return _number(value, 1 if value is not None and value < 100 else 0)


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.0f} %"


def _p(value: float | None) -> str:
    if value is None:
        return _NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _mean(interval: Mapping[str, Any] | None) -> str:
    return _number(interval["mean"]) if interval else _NONE


def _interval(interval: Mapping[str, Any] | None) -> str:
    if not interval:
        return _NONE
    mean, low, high = (_number(interval[key]) for key in ("mean", "low", "high"))
    return mean if low == _NONE else f"{mean} [{low}, {high}]"


def _counts(runs: int, diverged: int) -> str:
    return f"{runs - diverged} ok, {diverged} diverged" if diverged else f"{runs} ok"


def _setting(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in point.items()
    )


def plot_pareto(summary: Mapping[str, Any], path: pathlib.Path) -> None:
    """Forgetting against relative utility: means over seeds with their intervals.

    Two panels, as log10 p tells apart models that are near the retrained one, and the
    Kolmogorov-Smirnov distance D those that are far from it. Up and to the right is better in both.

    Args:
      summary: as from `summarise`.
      path: of the PNG, written whole or not at all.
    """
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    styles = _styles(summary["methods"])
    for axes, key in zip(panels, ("log10_p", "ks_distance"), strict=True):
        for name in summary["ranking"]:
            figures = summary["methods"][name]["figures"]
            x, y = figures["relative_utility"], figures[key]
            if not (x and y):  # all its runs diverged
                continue
            axes.errorbar(
                x["mean"],
                y["mean"],
                xerr=_reach(x),
                yerr=_reach(y),
                color=styles[name]["color"],
                marker=styles[name]["marker"],
                markersize=9,
                markeredgecolor="white",
                elinewidth=1,
                capsize=2.5,
                label=name,
                linestyle="none",
                zorder=3,
            )
        axes.axvline(1.0, color="grey", linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xlabel("utility / utility of the retrained model")
        axes.grid(alpha=0.3)
    log, distance = panels
    log.axhline(math.log10(0.05), color="grey", linewidth=0.8, linestyle=":", zorder=1)
    log.annotate(
        "p = 0.05", (0.02, math.log10(0.05)), xycoords=("axes fraction", "data"), va="bottom"
    )
    log.set_yscale("symlog", linthresh=1)
    log.set_ylim(top=0.15)
    ticks = [tick for tick in _LOG_TICKS if tick >= log.get_ylim()[0]]
    log.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    log.set_ylabel("mean log10 p (of the test against the retrained model)")
    distance.invert_yaxis()
    distance.set_ylabel("mean D (distance from the retrained model, axis reversed)")
    figure.suptitle("Forgetting against utility: up and to the right is better")
    _legend(figure, log)
    _save(figure, path)


def plot_sensitivity(records: Iterable[Record], path: pathlib.Path) -> None:
    """The objectives of every method's trials, best first: what share of them reaches which.

    Args:
      records: as `summarise` takes them; those of the search are shown.
      path: of the PNG, written whole or not at all.
    """
    objectives: dict[str, list[float]] = {}
    for record in records:
        if record["stage"] == "search":
            objectives.setdefault(record["method"], []).append(record["objective"])
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    styles = _styles(objectives)
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
            **styles[name],
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the trials (%)")
    axes.set_ylabel("objective that they reach at least")
    axes.set_title("How much each method depends on its setting: high and flat is better")
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    _save(figure, path)


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
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


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)


def _save(figure: Any, path: pathlib.Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    write_atomic(path, content.getvalue())


def write_report(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    references: Iterable[Record],
    conditions: Mapping[str, Any],
) -> None:
    """Writes `report.md`, which shows the plots `PARETO` and `SENSITIVITY` of the same folder.

    Args:
      folder: an existing folder.
      summary: as from `summarise`.
      references: as `reference_table` takes them.
      conditions: what the figures hold for, such as versions, machine and config; by name, a value
        or a mapping of values.
    """
    lines = [
        "# Comparison of unlearning methods",
        "",
        main_table(summary),
        "",
        _MAIN_TEXT,
        "",
        "The models that unlearning starts from and aims at, on the same items:",
        "",
        reference_table(references),
        "",
        f"![forgetting against utility]({PARETO})",
        "",
        "## Sensitivity",
        "",
        sensitivity_table(summary),
        "",
        _SENSITIVITY_TEXT,
        "",
        f"![objectives of all trials]({SENSITIVITY})",
        "",
        "## Chosen settings",
        "",
        settings_table(summary),
        "",
        "## Conditions",
        "",
        *(f"- {name}: {_condition(value)}" for name, value in conditions.items()),
        "",
    ]
    write_atomic(folder / REPORT, "\n".join(lines))


def _condition(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_condition(v)}" for name, v in value.items())
    return str(value).replace("\n", "\\n")
