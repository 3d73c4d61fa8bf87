"""Plots of unlearning in image classifiers; each function returns a figure to show or to save."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision.predictions import Histograms
from ofmu_jax.evals.vision.scores import UnlearningScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X<>hp8d"
_WITH_NUMBERS = 20  # classes up to which a cell of a confusion matrix has room for its count


def _figure(width: float, height: float) -> "Figure":
    # Without pyplot, so that nothing is global, and no window is opened.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_confusions(
    before: np.ndarray, after: np.ndarray, class_names: Sequence[str] | None = None
) -> "Figure":
    """Two confusion matrices side by side, on the same images.

    Args:
      before: (C, C) counts of the original model, as from `confusion`.
      after: (C, C) those of the unlearned one.
      class_names: of the C classes; their numbers without.

    Returns:
      The figure; colours are shares of a row, numbers are counts (up to 20 classes).

    Raises:
      InputError: shapes differ, or a class has no name.
    """
    if before.ndim != 2 or before.shape[0] != before.shape[1] or after.shape != before.shape:
        raise InputError(
            f"confusion matrices have shapes {before.shape} and {after.shape}; "
            "expected twice (classes, classes)"
        )
    names = [str(i) for i in range(len(before))] if class_names is None else class_names
    if len(names) != len(before):
        raise InputError(f"{len(names)} class names; expected {len(before)}, one per class")
    side = max(4.5, 0.45 * len(names) + 1.5)
    figure = _figure(2 * side, side)
    panels = figure.subplots(1, 2)
    for axes, title, counts in zip(
        panels, ("before unlearning", "after unlearning"), (before, after), strict=True
    ):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set_title(title)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("label")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        if len(names) <= _WITH_NUMBERS:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(
                        column, row, str(count), ha="center", va="center", color=colour, fontsize=8
                    )
    figure.colorbar(image, ax=panels, label="share of the label's images", shrink=0.8)
    return figure


def plot_histograms(data: Histograms, quantity: str = "loss (nats)") -> "Figure":
    """Outlines of histograms over each other.

    Args:
      data: as from `histograms`.
      quantity: what the values are, for the axis.

    Returns:
      The figure.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for index, (name, density) in enumerate(data.densities.items()):
        axes.stairs(density, data.edges, label=name, color=f"C{index % 10}", fill=True, alpha=0.25)
        axes.stairs(density, data.edges, color=f"C{index % 10}", linewidth=1.5)
    axes.set_xlabel(quantity)
    axes.set_ylabel("density")
    axes.legend()
    return figure


def plot_predictions(
    images: np.ndarray,
    labels: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    class_names: Sequence[str] | None = None,
    columns: int = 6,
) -> "Figure":
    """Forgotten images, each with what several models take it for.

    Args:
      images: (K, H, W) or (K, H, W, 1) or (K, H, W, 3), K > 0; numbers in [0, 1], or uint8.
      labels: (K,) integers.
      predictions: (K,) predicted classes of each model by its name, such as before, after and
        retrained.
      class_names: of all classes; their numbers without.
      columns: images per row.

    Returns:
      The figure; above an image its label, below it the predictions, green where they are right.

    Raises:
      InputError: shapes do not match, or a class has no name.
    """
    truth = np.asarray(labels)
    guesses = {name: np.asarray(values) for name, values in predictions.items()}
    count = len(images)
    for name, values in {"labels": truth, **guesses}.items():
        if not count or values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
            raise InputError(
                f"{name}: shape {values.shape} and type {values.dtype} for {count} images; "
                "expected at least one image, and an integer for each"
            )
    classes = np.stack([truth, *guesses.values()])
    names = [str(i) for i in range(classes.max() + 1)] if class_names is None else class_names
    outside = classes[(classes < 0) | (classes >= len(names))]
    if outside.size:
        raise InputError(f"class {outside[0]} in the plot; expected 0 to {len(names) - 1}")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = _figure(1.6 * columns, (1.6 + 0.25 * len(guesses)) * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for index, axes in zip(range(count), panels.flat, strict=False):
        image = np.asarray(images[index])
        top = 255 if image.dtype == np.uint8 else 1
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=top)
        axes.set_title(names[truth[index]], fontsize=9)
        for line, (name, values) in enumerate(guesses.items()):
            axes.annotate(
                f"{name}: {names[values[index]]}",
                (0.5, -0.02),
                xycoords="axes fraction",
                xytext=(0, -2 - 10 * line),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=8,
                color="tab:green" if values[index] == truth[index] else "tab:red",
            )
    return figure


def plot_trade_off(
    methods: Mapping[str, Sequence[UnlearningScores]], retrained: Sequence[UnlearningScores]
) -> "Figure":
    """How far from the retrained model methods are in forgetting, and how well they still classify.

    Args:
      methods: the scores of each method, one per seed.
      retrained: those of the retrained model, one per seed.

    Returns:
      The figure; bars are one standard deviation over seeds. Left of 0 a method forgets less than
      retraining does, right of it more.

    Raises:
      InputError: there are no scores of a method or of the retrained model.
    """
    groups: dict[str, Sequence[UnlearningScores]] = {**methods, "retrained": retrained}
    for name, group in groups.items():
        if not group:
            raise InputError(f"no scores of {name}; expected those of at least one seed")
    origin = np.mean([scores.ua for scores in retrained])
    figure = _figure(7, 4.4)
    axes = figure.subplots()
    axes.axvline(0.0, color="grey", linewidth=0.8, linestyle=":", zorder=1)
    for index, (name, group) in enumerate(groups.items()):
        x, y = (np.array([getattr(s, key) for s in group]) for key in ("ua", "ta"))
        last = name == "retrained"
        look: dict[str, Any] = {
            "color": "black" if last else f"C{index % 10}",
            "marker": "*" if last else _MARKERS[index % len(_MARKERS)],
            "markersize": 14 if last else 8,
        }
        spread = {
            f"{axis}err": values.std(ddof=1)
            for axis, values in (("x", x), ("y", y))
            if len(values) > 1
        }
        axes.errorbar(
            x.mean() - origin, y.mean(), **spread, **look, linestyle="none", capsize=2.5, label=name
        )
    axes.set_xlabel("UA - UA of the retrained model (percentage points)")
    axes.set_ylabel("TA: test accuracy (%)")
    axes.set_title("Forgetting against accuracy: near the star is better")
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
