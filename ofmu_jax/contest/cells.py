"""Cells of Markdown tables."""

import math
from collections.abc import Callable, Mapping
from typing import Any

NONE = "-"


def table(columns: Mapping[str, Callable[[Any], str]], rows: Mapping[str, Any]) -> str:
    """A row per method, a column per function of what is known of it."""
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in rows.items():
        cells = [name, *(cell(values) for cell in columns.values())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """So many digits after the point; of a NaN, as of the ends of one value's interval, none."""
    if value is None or math.isnan(value):
        return NONE
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no "-0.000"


def size(value: float | None) -> str:
    """One digit after the point, none from 100 on."""
    return number(value, 1 if value is not None and value < 100 else 0)


def percent(value: float | None) -> str:
    """A share."""
    return NONE if value is None else f"{100 * value:.0f} %"


def p_value(value: float | None) -> str:
    """Two digits that count."""
    if value is None:
        return NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def mean(values: Mapping[str, Any] | None, digits: int = 3) -> str:
    """The mean of an interval."""
    return number(values["mean"], digits) if values else NONE


def interval(values: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A mean with the ends of its interval, if it has any.

    >>> interval({"mean": 0.5, "low": 0.25, "high": 0.75}, digits=2)
    '0.50 [0.25, 0.75]'
    >>> interval({"mean": 0.5, "low": math.nan, "high": math.nan}, digits=2)
    '0.50'
    """
    if not values:
        return NONE
    middle, low, high = (number(values[key], digits) for key in ("mean", "low", "high"))
    return middle if low == NONE else f"{middle} [{low}, {high}]"


def counts(runs: int, diverged: int) -> str:
    """How many runs, and how many of them diverged."""
    return f"{runs - diverged} ok, {diverged} diverged" if diverged else f"{runs} ok"


def setting(point: Mapping[str, Any]) -> str:
    """Names and values of hyperparameters."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in point.items()
    )
