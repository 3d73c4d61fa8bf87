"""What an image classifier is judged by, and `ofmu images evaluate`."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from ofmu_jax.data.vision import ImageSet
from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import (
    UnlearningScores,
    average_gap,
    confusion,
    cross_entropies,
    gaps,
    histograms,
    plot_confusions,
    plot_histograms,
    plot_predictions,
    predict,
    unlearning_scores,
)
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.folder import RESULTS, open_folder, write_figure, write_json
from ofmu_jax.runs.vision.config import ImageEvaluateConfig
from ofmu_jax.runs.vision.datasets import ImageRequest, load_image_request
from ofmu_jax.runs.vision.models import ImageModel, load_image_model

PARTS = ("forget", "retain", "test")
SHOWN = 12


class Judged(NamedTuple):
    """A model's results.

    Attributes:
      scores: UA, RA, TA and MIA.
      logits: by part, (N, classes).
    """

    scores: UnlearningScores
    logits: dict[str, np.ndarray]


def judge(model: ImageModel, parts: dict[str, ImageSet]) -> Judged:
    """Judges a model on `forget`, `retain` and `test` images."""
    logits = {
        name: predict(model.classifier, model.variables, rows.images)
        for name, rows in parts.items()
    }
    labelled = {name: (logits[name], rows.labels) for name, rows in parts.items()}
    return Judged(unlearning_scores(**labelled), logits)


def evaluate_images(config: ImageEvaluateConfig) -> pathlib.Path:
    """Evaluates as `ofmu images evaluate` does; returns the run folder.

    It writes results.json; and, with an original and a retrained model, plots of before and after.
    """
    keep_programs(cache_folder())
    request = load_image_request(config.data)
    given = {
        "model": config.model,
        "retrained": config.retrained,
        "original": config.original,
    }
    models = {
        name: checked_model(path, request) for name, path in given.items() if path is not None
    }
    folder = open_folder(config.output, config)
    parts = {name: request.rows(name) for name in PARTS}
    judged = {name: judge(model, parts) for name, model in models.items()}
    write_json(folder / RESULTS, summary(judged))
    plots(folder, request, parts, judged)
    return folder


def checked_model(path: str | pathlib.Path, request: ImageRequest) -> ImageModel:
    """The model of a run folder, if it takes the request's images.

    Raises:
      InputError: it does not, or there is none.
    """
    model = load_image_model(path)
    shape, classes = request.data.train.images.shape[1:], request.data.num_classes
    config = model.classifier.config
    if tuple(config.image_shape) != tuple(shape) or config.num_classes != classes:
        raise InputError(
            f"model {path}: it takes images of shape {tuple(config.image_shape)} and "
            f"{config.num_classes} classes; expected {tuple(shape)} and {classes}, those of "
            f"{request.data.name}"
        )
    return model


def summary(judged: dict[str, Judged]) -> dict[str, Any]:
    """The scores of every model, and the gaps of `model` to `retrained` if that is there."""
    results: dict[str, Any] = {
        name: {k: v for k, v in entry.scores._asdict().items() if v is not None}
        for name, entry in judged.items()
    }
    if "retrained" in judged:
        own, retrained = judged["model"].scores, judged["retrained"].scores
        results["gaps"] = gaps(own, retrained)
        results["average_gap"] = average_gap(own, retrained)
    return results


def plots(
    folder: pathlib.Path,
    request: ImageRequest,
    parts: dict[str, ImageSet],
    judged: dict[str, Judged],
) -> None:
    """Confusion before and after, loss histograms, and forgotten images with predictions."""
    names, count = request.data.class_names, request.data.num_classes
    losses = {
        name: cross_entropies(judged["model"].logits[name], rows.labels)
        for name, rows in parts.items()
    }
    if "retrained" in judged:
        losses["forget, retrained"] = cross_entropies(
            judged["retrained"].logits["forget"], parts["forget"].labels
        )
    write_figure(folder / "losses.png", plot_histograms(histograms(losses)))
    if "original" not in judged:
        return
    before, after = (
        confusion(judged[name].logits["forget"], parts["forget"].labels, count)
        for name in ("original", "model")
    )
    write_figure(folder / "confusion.png", plot_confusions(before, after, names))
    order = {"original": "before", "model": "after", "retrained": "retrained"}
    guesses = {
        shown: judged[name].logits["forget"][:SHOWN].argmax(axis=1)
        for name, shown in order.items()
        if name in judged
    }
    forget = parts["forget"]
    figure = plot_predictions(forget.images[:SHOWN], forget.labels[:SHOWN], guesses, names)
    write_figure(folder / "forgotten.png", figure)
