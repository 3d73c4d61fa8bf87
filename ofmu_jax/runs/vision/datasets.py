"""Images, their split by a request, and what methods and metrics are given of them."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ofmu_jax.data.vision import (
    ForgetClass,
    ImageSet,
    Split,
    VisionData,
    class_label,
    kept_test,
    load_images,
    split,
)
from ofmu_jax.methods.vision import Problem, Rows
from ofmu_jax.runs.vision.classifier import ImageClassifier
from ofmu_jax.runs.vision.config import ImageDataConfig


class ImageRequest(NamedTuple):
    """Images with a request to forget some.

    Attributes:
      data: the whole set.
      split: rows of its training images.
      test: of the test images, those that the request leaves; all, unless a class is forgotten.
      whole_classes: the classes of which all rows are to be forgotten.
    """

    data: VisionData
    split: Split
    test: np.ndarray
    whole_classes: tuple[int, ...]

    def rows(self, part: str) -> ImageSet:
        """The images of `forget`, `retain`, `validation` or `test`."""
        if part == "test":
            return _take(self.data.test, self.test)
        return _take(self.data.train, getattr(self.split, part))


def load_image_request(config: ImageDataConfig) -> ImageRequest:
    """Loads images and splits them.

    Raises:
      InputError: as `load_images`, the request and `split` do.
    """
    data = load_images(config.dataset, config.data_dir)
    if config.train_rows is not None:
        data = dataclasses.replace(data, train=_take(data.train, slice(config.train_rows)))
    request = config.request
    parts = split(data, request, config.split_seed, config.validation)
    whole = (class_label(data, request.cls),) if isinstance(request, ForgetClass) else ()
    return ImageRequest(data, parts, kept_test(data, request), whole)


def image_problem(
    request: ImageRequest, classifier: ImageClassifier, variables: Any, batch_size: int
) -> Problem:
    """The request as methods take it."""
    forget, retain, unseen = (
        Rows(*map(jnp.asarray, request.rows(part))) for part in ("forget", "retain", "validation")
    )
    return Problem(variables, forget, retain, unseen, classifier, request.whole_classes, batch_size)


def _take(images: ImageSet, rows: Any) -> ImageSet:
    return ImageSet(images.images[rows], images.labels[rows])
