"""What language models are judged by: answers about the forget set and about all else."""

import math
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.contest.cells import interval, mean, number, p_value
from ofmu_jax.contest.measures import Measures, Row
from ofmu_jax.contest.plots import legend, place
from ofmu_jax.runs.folder import write_figure

_LOG_TICKS = (0, -0.5, -1, -2, -5, -10, -20, -50, -100, -200)


def plot_pareto(summary: Mapping[str, Any], path: pathlib.Path) -> None:
    """Forgetting against relative utility: means over seeds with their intervals.

    Two panels, as log10 p tells apart models that are near the retrained one, and the
    Kolmogorov-Smirnov distance D those that are far from it. Up and to the right is better in both.

    Args:
      summary: as from `summarise`.
      path: of the PNG, written whole or not at all.
    """
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, key in zip(panels, ("log10_p", "ks_distance"), strict=True):
        place(axes, summary, "relative_utility", key)
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
    legend(figure, log)
    write_figure(path, figure)


def _average(key: str) -> Row:
    return lambda figures: number(statistics.fmean(f[key] for f in figures))


_TEXT = """\
Score is the harmonic mean of p and of utility relative to the retrained model's, at most 1. p is
the Kolmogorov-Smirnov test's between the truth ratios of the model and of the retrained one on the
forget items, 1 where they cannot be told apart, and D its distance, 0 where they agree. With few
items p takes few values and its mean says little, hence the median. Forget and retain prob are the
probabilities of the right answers per token."""

ANSWERS = Measures(
    figures=(
        "score",
        "forget_quality",
        "log10_p",
        "ks_distance",
        "utility",
        "relative_utility",
        "model_utility",
        "forget_probability",
        "retain_probability",
        "curvature_positive",
        "curvature_mean",
    ),
    per_seed=("score", "forget_quality", "ks_distance", "relative_utility"),
    diverged_score=0.0,
    columns={
        "score": lambda m: interval(m["figures"]["score"]),
        "median p": lambda m: p_value(m["forget_quality_median"]),
        "mean D": lambda m: mean(m["figures"]["ks_distance"]),
        "relative utility": lambda m: interval(m["figures"]["relative_utility"]),
        "forget prob": lambda m: mean(m["figures"]["forget_probability"]),
        "retain prob": lambda m: mean(m["figures"]["retain_probability"]),
    },
    reference_columns={
        "score": _average("score"),
        "median p": lambda m: p_value(statistics.median(f["forget_quality"] for f in m)),
        "mean D": _average("ks_distance"),
        "utility": _average("utility"),
        "relative utility": _average("relative_utility"),
        "forget prob": _average("forget_probability"),
        "retain prob": _average("retain_probability"),
    },
    text=_TEXT,
    plot=plot_pareto,
)
"""Of `ofmu compare` on tofu and authors."""
