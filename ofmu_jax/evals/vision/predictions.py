"""Logits of image classifiers, and what is read off them for one set of images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ofmu_jax.errors import InputError
from ofmu_jax.evals.batching import padded_batches

# Logits (N, classes) and labels (N,) of one set of images.
Labelled: TypeAlias = tuple[ArrayLike, ArrayLike]


def predict(
    apply: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    images: np.ndarray | jax.Array,
    batch_size: int = 512,
) -> np.ndarray:
    """Logits of a classifier on images, batch by batch.

    The program is compiled once for all models and sets that share `apply` (the same object), the
    structure and shapes of `variables` and the shape of a batch.

    Args:
      apply: from `variables` and images (B, ...) to logits (B, classes), in evaluation mode.
      variables: whatever `apply` takes, such as parameters and batch statistics.
      images: (N, ...), N > 0.
      batch_size: images per batch, B; the last batch is filled up by repeating an image.

    Returns:
      (N, classes) float32.

    Raises:
      InputError: there are no images, or the batch size is less than 1.

    >>> predict(lambda scale, x: scale * x, 2.0, np.arange(6.0).reshape(3, 2), batch_size=2)
    array([[ 0.,  2.],
           [ 4.,  6.],
           [ 8., 10.]], dtype=float32)
    """
    if len(images) == 0:
        raise InputError("images to predict have length 0; expected at least one image")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    # Fetched together at the end, so that the device does not wait for the host.
    batches = [
        _logits(apply, variables, images[rows]) for rows in padded_batches(len(images), batch_size)
    ]
    return np.concatenate(jax.device_get(batches))[: len(images)]


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply: Callable, variables: Any, images: jax.Array) -> jax.Array:
    return apply(variables, images).astype(jnp.float32)


def check_logits(name: str, logits: ArrayLike) -> np.ndarray:
    """The logits as an array, if they are those of a set of images.

    Args:
      name: of the set, for the message.
      logits: what should be (N, classes), N > 0, classes > 1, finite.

    Returns:
      (N, classes), as they are.

    Raises:
      InputError: they are not.
    """
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise InputError(
            f"{name}: logits have shape {array.shape}; expected (images, classes), "
            "with at least one image and two classes"
        )
    rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if rows.size:
        raise InputError(
            f"{name}: logits of {rows.size} of {len(array)} images are not finite, "
            f"the first of image {rows[0]}; expected finite numbers"
        )
    return array


def check_labelled(
    name: str, logits: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels as arrays, if they belong to one set of images.

    Args:
      name: of the set, for the message.
      logits: as in `check_logits`.
      labels: what should be (N,) integers in [0, classes).

    Returns:
      Both, as they are.

    Raises:
      InputError: they are not.
    """
    array, classes = check_logits(name, logits), np.asarray(labels)
    count, width = array.shape
    if classes.shape != (count,):
        raise InputError(
            f"{name}: labels have shape {classes.shape}; expected ({count},), one per row of logits"
        )
    if not np.issubdtype(classes.dtype, np.integer):
        raise InputError(f"{name}: labels are of type {classes.dtype}; expected integers")
    outside = classes[(classes < 0) | (classes >= width)]
    if outside.size:
        raise InputError(
            f"{name}: label {outside[0]}; expected 0 to {width - 1}, as logits have {width} classes"
        )
    return array, classes


def accuracy(logits: ArrayLike, labels: ArrayLike, name: str = "images") -> float:
    """Share of images whose largest logit is the label's; of equal ones, the first counts.

    Args:
      logits: (N, classes).
      labels: (N,) integers.
      name: of the set, for messages.

    Returns:
      Percent.

    Raises:
      InputError: logits or labels are not those of a set of images.

    >>> accuracy([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 0.0]], [0, 1, 1, 0])
    75.0
    """
    array, classes = check_labelled(name, logits, labels)
    return 100 * float(np.mean(array.argmax(axis=1) == classes))


def cross_entropies(logits: ArrayLike, labels: ArrayLike, name: str = "images") -> np.ndarray:
    """Loss of each image.

    Args:
      logits: (N, classes).
      labels: (N,) integers.
      name: of the set, for messages.

    Returns:
      (N,) float64, nats.

    Raises:
      InputError: logits or labels are not those of a set of images.

    >>> cross_entropies([[0.0, 0.0]], [1]).round(6)
    array([0.693147])
    """
    array, classes = check_labelled(name, logits, labels)
    wide = array.astype(np.float64)
    return logsumexp(wide, axis=1) - wide[np.arange(len(wide)), classes]


def true_probabilities(logits: ArrayLike, labels: ArrayLike, name: str = "images") -> np.ndarray:
    """Probability that the classifier gives to the label of each image: its confidence.

    Args:
      logits: (N, classes).
      labels: (N,) integers.
      name: of the set, for messages.

    Returns:
      (N,) float64 in [0, 1].

    Raises:
      InputError: logits or labels are not those of a set of images.

    >>> true_probabilities([[0.0, 0.0, 0.0, 0.0]], [1])
    array([0.25])
    """
    return np.exp(-cross_entropies(logits, labels, name))


def confusion(
    logits: ArrayLike, labels: ArrayLike, num_classes: int, name: str = "images"
) -> np.ndarray:
    """How many images of each class are taken for which.

    Args:
      logits: (N, classes).
      labels: (N,) integers.
      num_classes: C.
      name: of the set, for messages.

    Returns:
      (C, C) int64; rows are labels, columns predictions.

    Raises:
      InputError: logits or labels are not those of a set of images of C classes.

    >>> confusion([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]], [0, 1, 1], 2)
    array([[1, 0],
           [1, 1]])
    """
    array, classes = check_labelled(name, logits, labels)
    if array.shape[1] != num_classes:
        raise InputError(
            f"{name}: logits have {array.shape[1]} classes; expected num_classes = {num_classes}"
        )
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (classes, array.argmax(axis=1)), 1)
    return counts


def forget_predictions_histogram(logits: ArrayLike) -> np.ndarray:
    """As which classes forgotten images are predicted.

    Args:
      logits: (N, classes) on the forget set.

    Returns:
      (classes,) int64, numbers of images.

    Raises:
      InputError: the logits are not those of a set of images.

    >>> forget_predictions_histogram([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 4.0, 3.0]])
    array([2, 1, 0])
    """
    array = check_logits("forget", logits)
    return np.bincount(array.argmax(axis=1), minlength=array.shape[1])


class Histograms(NamedTuple):
    """Distributions of one quantity over several sets of images, with common bins.

    Attributes:
      edges: (bins + 1,) float64.
      densities: (bins,) float64 of each set by its name; each integrates to 1.
    """

    edges: np.ndarray
    densities: dict[str, np.ndarray]


def histograms(values_by_set: Mapping[str, ArrayLike], bins: int = 40) -> Histograms:
    """Histograms of per-image values, such as `cross_entropies` or `true_probabilities`.

    Args:
      values_by_set: (N,) values of each set, such as forget, retain, test, and the forget set
        under the retrained model. The sets may differ in size.
      bins: number of bins, which cover all values and are equally wide.

    Returns:
      Edges and densities.

    Raises:
      InputError: there is no set, one is empty or has a value that is not finite, or there are no
        bins.

    >>> histograms({"forget": [0.0, 1.0], "test": [2.0]}, bins=2).densities
    {'forget': array([0.5, 0.5]), 'test': array([0., 1.])}
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    if not values_by_set:
        raise InputError("histograms of no set; expected at least one")
    sets = {name: np.asarray(values, np.float64) for name, values in values_by_set.items()}
    for name, values in sets.items():
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise InputError(
                f"{name}: values to draw a histogram of have shape {values.shape}, "
                f"{np.isfinite(values).sum()} of them finite; expected (images,), all finite"
            )
    edges = np.histogram_bin_edges(np.concatenate(list(sets.values())), bins)
    densities = {name: np.histogram(x, edges, density=True)[0] for name, x in sets.items()}
    return Histograms(edges, densities)
