"""What image classifiers are judged by: how far their scores are from the retrained model's."""

import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.contest.cells import interval, mean, number
from ofmu_jax.contest.measures import Measures, Row
from ofmu_jax.contest.plots import legend, place
from ofmu_jax.runs.folder import write_figure

_SCORES = {"ua": "UA", "ra": "RA", "ta": "TA", "mia": "MIA"}


def plot_gaps(summary: Mapping[str, Any], path: pathlib.Path) -> None:
    """Two panels of signed gaps to the retrained model: UA against TA, MIA against RA.

    Args:
      summary: as from `summarise`.
      path: of the PNG, written whole or not at all.
    """
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, (across, up) in zip(panels, (("ua", "ta"), ("mia", "ra")), strict=True):
        place(axes, summary, f"{across}_gap", f"{up}_gap")
        axes.axvline(0.0, color="grey", linewidth=0.8, linestyle=":", zorder=1)
        axes.axhline(0.0, color="grey", linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xlabel(f"{_SCORES[across]} - {_SCORES[across]} of the retrained model (points)")
        axes.set_ylabel(f"{_SCORES[up]} - {_SCORES[up]} of the retrained model (points)")
        axes.grid(alpha=0.3)
    figure.suptitle("Distance from the retrained model, which is at the crossing of the lines")
    legend(figure, panels[0])
    write_figure(path, figure)


def _average(key: str) -> Row:
    return lambda figures: number(statistics.fmean(f[key] for f in figures), 2)


def _with_interval(key: str) -> Row:
    return lambda method: interval(method["figures"][key], 2)


def _mean(key: str) -> Row:
    return lambda method: mean(method["figures"][key], 2)


IMAGES = Measures(
    figures=(
        "score",
        "average_gap",
        *_SCORES,
        *(f"{name}_gap" for name in _SCORES),
        "curvature_positive",
        "curvature_mean",
    ),
    per_seed=("score", "average_gap", *_SCORES),
    diverged_score=-100.0,
    columns={
        "average gap": _with_interval("average_gap"),
        **{title: _with_interval(name) for name, title in _SCORES.items()},
        **{f"{title} gap": _mean(f"{name}_gap") for name, title in _SCORES.items()},
    },
    reference_columns={
        "average gap": _average("average_gap"),
        **{title: _average(name) for name, title in _SCORES.items()},
    },
    text="""\
UA is 100 less the accuracy on the forget set, RA the accuracy on the retain set, TA the one on the
test set (without the forgotten class, if a class was forgotten), and MIA the share of the forget
set that a membership attack takes for images never seen, all in percent. The average gap is the
mean distance of the four from the retrained model's, in points, and the score that ranks methods is
its negative; the gaps of the single scores have signs. The search's objective is 1 / (1 + gap).""",
    plot=plot_gaps,
)
"""Of `ofmu compare` on images."""
