"""What to forget, what to retain and what to validate with, as SalUn has it.

Fan et al., 2024, arXiv:2310.12508: a tenth of the train images, stratified, is for validation; the
forget set is a part of the others, all of which the model to be unlearned has been trained on.
"""

from typing import NamedTuple

import numpy as np

from ofmu_jax.data.vision.images import VisionData
from ofmu_jax.data.vision.requests import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    ForgetRequest,
    class_label,
)
from ofmu_jax.data.vision.stratified import stratified
from ofmu_jax.errors import InputError


class Split(NamedTuple):
    """Positions among the train images, in order; every image is in one of the three.

    Attributes:
      forget: (F,) int64.
      retain: (R,) int64.
      validation: (V,) int64.
    """

    forget: np.ndarray
    retain: np.ndarray
    validation: np.ndarray


def split(data: VisionData, request: ForgetRequest, seed: int, validation: float = 0.1) -> Split:
    """Divides the train images.

    Validation images are drawn first, the same for every request with this seed, so that one model
    trained without them serves all requests. Only given indices among them are replaced by others
    of their class, as far as there are any, since what is to be forgotten must have been learnt.
    Of two fractions, the larger one forgets all that the smaller one does.

    It depends on the labels, the request, the seed and `validation` alone.

    Args:
      data: the set.
      request: what to forget.
      seed: of the drawing, at least 0.
      validation: which fraction of each class is for validation, at least 0, less than 1. Where a
        class is forgotten, its validation images are neither forgotten nor retained.

    Returns:
      The three parts. For a fraction, `round(fraction * (F + R))` images are forgotten.

    Raises:
      InputError: nothing to forget or nothing to retain, a class that does not exist, an index
        beyond the images, or a seed or fraction out of its range.

    >>> from ofmu_jax.data.vision import load_images
    >>> parts = split(load_images("digits"), ForgetClass(3), seed=0)
    >>> [len(part) for part in parts]
    [131, 1163, 144]
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; expected at least 0")
    if not 0 <= validation < 1:
        raise InputError(f"validation is {validation}; expected at least 0, less than 1")
    labels = data.train.labels
    given = _given(data, request)
    held_out = stratified(labels, validation, _generator(seed, 0), excluded=given)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    if isinstance(request, ForgetFraction):
        size = round(request.fraction * len(rest))
        forget = np.sort(rest[_generator(seed, 1).permutation(len(rest))[:size]])
        what = f"a fraction of {request.fraction}"
    elif isinstance(request, ForgetClass):
        forget = rest[labels[rest] == class_label(data, request.cls)]
        what = f"class {request.cls!r}"
    else:
        forget = np.flatnonzero(given)
        what = f"{len(forget)} indices"
    if len(forget) in (0, len(rest)):
        raise InputError(
            f"to forget {what} of {data.name} is to forget {len(forget)} of {len(rest)} images; "
            "expected some to forget and some to retain"
        )
    return Split(forget, np.setdiff1d(rest, forget), held_out)


def forget_test(data: VisionData, request: ForgetRequest) -> np.ndarray:
    """The test images of the class that is forgotten.

    Args:
      data: the set.
      request: what is forgotten.

    Returns:
      Positions among the test images, in order, (M,) int64; none unless a class is forgotten.

    Raises:
      InputError: the class does not exist.
    """
    return np.flatnonzero(_forgotten(data, request))


def kept_test(data: VisionData, request: ForgetRequest) -> np.ndarray:
    """The test images that a model should still know: all but those of a forgotten class.

    Args:
      data: the set.
      request: what is forgotten.

    Returns:
      Positions among the test images, in order, (M,) int64.

    Raises:
      InputError: the class does not exist, or all test images are of it.
    """
    kept = np.flatnonzero(~_forgotten(data, request))
    if not len(kept):
        raise InputError(f"{data.name}: all test images are to be forgotten; expected others")
    return kept


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64((seed, stream)))


def _given(data: VisionData, request: ForgetRequest) -> np.ndarray:
    """(N,) bool, which train images are to be forgotten by their indices."""
    count = len(data.train.labels)
    given = np.zeros(count, bool)
    if isinstance(request, ForgetIndices):
        largest = request.indices[-1]
        if largest >= count:
            raise InputError(
                f"index {largest} to forget is not in {data.name}; expected 0 to {count - 1}"
            )
        given[list(request.indices)] = True
    return given


def _forgotten(data: VisionData, request: ForgetRequest) -> np.ndarray:
    """(N,) bool, which test images are of a forgotten class."""
    if isinstance(request, ForgetClass):
        return data.test.labels == class_label(data, request.cls)
    return np.zeros(len(data.test.labels), bool)
