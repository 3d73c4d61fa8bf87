"""Labelled images, as every set holds them."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from ofmu_jax.errors import InputError

# Keeps the integer sums of a set's statistics small in memory.
_CHUNK = 1024


class ImageSet(NamedTuple):
    """Labelled images.

    Attributes:
      images: (N, H, W, C) uint8.
      labels: (N,) int32, from 0.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class VisionData:
    """A set of images with its classes; checked when made.

    Attributes:
      name: of the set.
      train: what models learn from; splits are of these.
      test: of the same height, width and channels.
      num_classes: K.
      class_names: K different names, by label.
      mean: (C,) float32, of the pixels in [0, 1].
      std: (C,) float32, positive, of the pixels in [0, 1].

    Raises:
      InputError: something is not as above; the message names the set, the part and the value.
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        for part, where in self._parts():
            check_images(part, where)
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise InputError(
                f"{self.name}: train images are {self.train.images.shape[1:]} and test images "
                f"{self.test.images.shape[1:]}; expected one height, width and number of channels"
            )
        self._check_classes()
        for part, where in self._parts():
            _check_labels(part.labels, self.num_classes, where)
        self._check_statistics()

    @property
    def black(self) -> np.ndarray:
        """(C,) float32, a pixel of value 0 after `normalise`."""
        return -self.mean / self.std

    def _parts(self) -> tuple[tuple[ImageSet, str], ...]:
        return (self.train, f"{self.name}, train"), (self.test, f"{self.name}, test")

    def _check_classes(self) -> None:
        names = self.class_names
        if self.num_classes < 1 or len(names) != self.num_classes:
            raise InputError(
                f"{self.name}: {len(names)} class names for {self.num_classes} classes; "
                "expected one name each, and at least one class"
            )
        if len(set(names)) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise InputError(f"{self.name}: class name {twice!r} is given twice; expected once")

    def _check_statistics(self) -> None:
        channels = self.train.images.shape[-1:]
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value.shape != channels or value.dtype != np.float32:
                raise InputError(
                    f"{self.name}: {name} is {value.dtype} {value.shape}; "
                    f"expected float32 {channels}"
                )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise InputError(f"{self.name}: mean {self.mean}, std {self.std}; expected numbers")
        if not (self.std > 0).all():
            raise InputError(f"{self.name}: std is {self.std}; expected more than 0")


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the pixels of each channel, in [0, 1].

    Args:
      images: (N, H, W, C) uint8, N > 0.

    Returns:
      Two (C,) float32 arrays. A channel with one value throughout gets the standard deviation 1,
      with which it is normalised to 0.

    >>> mean, std = channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    channels = images.shape[-1]
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].reshape(-1, channels).astype(np.int64)
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
    count = images.size // channels
    # In Python's integers, which do not overflow, so that a constant channel has exactly 0.
    spread = [count * int(s) - int(t) ** 2 for s, t in zip(squares, total, strict=True)]
    std = np.array([math.sqrt(value) / count / 255 or 1.0 for value in spread])
    return (total / count / 255).astype(np.float32), std.astype(np.float32)


def as_labels(values: np.ndarray, where: str) -> np.ndarray:
    """Labels as int32, from integers of any kind.

    Args:
      values: (N,) integers.
      where: what messages begin with.

    Returns:
      (N,) int32.

    Raises:
      InputError: it is no vector of integers, or one of them is no int32.
    """
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(
            f"{where}: labels are {values.dtype} {values.shape}; expected a vector of integers"
        )
    limits = np.iinfo(np.int32)
    wrong = np.flatnonzero((values < limits.min) | (values > limits.max))
    if len(wrong):
        raise InputError(
            f"{where}: label {values[wrong[0]]} at index {wrong[0]}; expected a class number"
        )
    return values.astype(np.int32)


def check_images(part: ImageSet, where: str) -> None:
    """Checks all but the range of the labels.

    Args:
      part: images and labels.
      where: what messages begin with.

    Raises:
      InputError: they are not as `ImageSet` has them, there are none, or not as many.
    """
    images, labels = part
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(
            f"{where}: images are {images.dtype} {images.shape}; expected uint8 (N, H, W, C)"
        )
    if 0 in images.shape:
        raise InputError(f"{where}: images are {images.shape}; expected at least one image")
    if labels.dtype != np.int32 or labels.ndim != 1:
        raise InputError(f"{where}: labels are {labels.dtype} {labels.shape}; expected int32 (N,)")
    if len(images) != len(labels):
        raise InputError(
            f"{where}: {len(images)} images and {len(labels)} labels; expected as many"
        )


def _check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise InputError(
            f"{where}: label {labels[wrong[0]]} at index {wrong[0]}; "
            f"expected 0 to {num_classes - 1}"
        )
