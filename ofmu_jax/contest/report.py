"""A comparison's tables and report, from its summary and records alone."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ofmu_jax.atomic import write_atomic
from ofmu_jax.contest.cells import (
    NONE,
    counts,
    interval,
    number,
    p_value,
    percent,
    setting,
    size,
    table,
)
from ofmu_jax.contest.measures import Measures
from ofmu_jax.contest.summary import Record

REPORT, PARETO, SENSITIVITY = "report.md", "pareto.png", "sensitivity.png"

_HOW = """\
Every method may try the same number of settings. The setting with the largest objective, the score
on one half of the evaluation items (its mean over several runs, where there are finalists), is then
run anew with every seed, and the table shows these runs on the other half, on which nothing was
chosen. All items of the forget set are unlearned."""
_COSTS = """\
Gradients are the cost of a run in units of one gradient of one batch; seconds are without
compilation. All but the median are means over seeds. A run that diverged has the least score and
counts in no other figure, but in the costs."""
_BRACKETS = """\
Brackets hold Student's t interval of 95 % over seeds or, where there are several pairs of models,
over the means of each pair. It covers what changes with them, not the choice of items or of the
data set. "vs best other" is the mean difference of scores from the best other method's with the
same seeds or pairs, and Holm p is the two-sided paired t-test of it, adjusted by Holm's method for
how many tests there are. Which method is the best other is chosen by the same runs, and the
test takes differences to be normal: with few seeds it is a guide. Where all differences are equal,
p is 1 if they are 0, and else 0."""
_SENSITIVITY_TEXT = """\
From the trials of the search, on the half of the items by which settings were chosen; a trial that
diverged has objective 0. A method of which many trials come within 5 % of its best needs less
tuning than one that has a single good setting. The plot shows, for each share of the trials, the
objective that they reach at least."""


def main_table(summary: Mapping[str, Any], measures: Measures) -> str:
    """A Markdown table of the final runs, one row per method, best mean score first.

    Args:
      summary: as from `summarise`.
      measures: by which models are judged.

    Returns:
      The table; methods without final runs come last.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        **measures.columns,
        "vs best other": lambda m: interval((m["against"] or {}).get("difference")),
        "Holm p": lambda m: p_value((m["against"] or {}).get("holm_p")),
        "gradients": lambda m: size(m["cost"]["gradient_equivalents"]),
        "seconds": lambda m: size(m["cost"]["seconds"]),
        "peak GiB": lambda m: number(m["cost"]["peak_memory_gib"], 2),
        "seeds": lambda m: counts(m["finals"], m["diverged_finals"]),
        "trials": lambda m: counts(m["trials"], m["diverged_trials"]),
    }
    return table(columns, {name: summary["methods"][name] for name in _order(summary)})


def sensitivity_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table of the search: how much a method depends on a lucky setting.

    Args:
      summary: as from `summarise`.

    Returns:
      The table, in the order of `main_table`.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "objective of the chosen": lambda m: number((m["best"] or {}).get("objective")),
        "90 % quantile": lambda m: number(m["objective_p90"]),
        "median": lambda m: number(m["objective_median"]),
        "trials within 5 % of the best": lambda m: percent(m["near_best_share"]),
        "trials": lambda m: counts(m["trials"], m["diverged_trials"]),
        "seconds": lambda m: size(m["search_seconds"]),
    }
    return table(columns, {name: summary["methods"][name] for name in _order(summary)})


def settings_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table of the settings that the search chose.

    Args:
      summary: as from `summarise`.

    Returns:
      The table, in the order of `main_table`.
    """
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "trial": lambda m: str(m["best"]["trial"]) if m["best"] else NONE,
        "setting": lambda m: setting(m["best"]["point"]) if m["best"] else NONE,
    }
    return table(columns, {name: summary["methods"][name] for name in _order(summary)})


def reference_table(references: Iterable[Record], measures: Measures) -> str:
    """A Markdown table of the models that unlearning starts from and aims at.

    Args:
      references: records with `method`, the model's name, and its `figures`; one per replicate.
      measures: by which models are judged.

    Returns:
      The table, of means over replicates.
    """
    rows: dict[str, list[Mapping[str, float | None]]] = {}
    for record in references:
        rows.setdefault(record["method"], []).append(record["figures"])
    return table(measures.reference_columns, rows)


def _order(summary: Mapping[str, Any]) -> list[str]:
    """The ranked methods, then those without final runs."""
    ranking = summary["ranking"]
    return [*ranking, *(name for name in summary["methods"] if name not in ranking)]


def write_report(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    references: Iterable[Record],
    conditions: Mapping[str, Any],
    measures: Measures,
) -> None:
    """Writes `report.md`, which shows the plots `PARETO` and `SENSITIVITY` of the same folder.

    Args:
      folder: an existing folder.
      summary: as from `summarise`.
      references: as `reference_table` takes them.
      conditions: what the figures hold for, such as versions, machine and config; by name, a value
        or a mapping of values.
      measures: by which models are judged.
    """
    lines = [
        "# Comparison of unlearning methods",
        "",
        main_table(summary, measures),
        "",
        _HOW,
        "",
        f"{measures.text} {_COSTS}",
        "",
        _BRACKETS,
        "",
        "The models that unlearning starts from and aims at, on the same items:",
        "",
        reference_table(references, measures),
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
