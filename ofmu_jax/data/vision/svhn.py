"""The cropped images of SVHN (Netzer et al., 2011), in MATLAB's files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ofmu_jax.data.vision.found import Found
from ofmu_jax.data.vision.images import ImageSet, as_labels
from ofmu_jax.errors import InputError

SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
_SHAPE = (32, 32, 3)
# The most that deflate, which compresses these files, makes of a byte.
_MAX_RATIO = 1032

# Shape and dtype.
_Kind: TypeAlias = tuple[tuple[int, ...], str]


def read_svhn_folder(folder: Path) -> Found:
    """Reads train and test images; the extra ones are left alone.

    Raises:
      InputError: a file is missing, or is none of SVHN's.
    """
    train, test = (_read(folder / name) for name in SVHN_FILES)
    return Found(train, test)


def _read(path: Path) -> ImageSet:
    import scipy.io

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected it beside the other")
    try:
        kinds = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path, False)}
        _check_kinds(kinds, path)
        fields = scipy.io.loadmat(path, appendmat=False, variable_names=("X", "y"))
    except InputError:
        raise
    except Exception as error:  # scipy promises no narrower class for damaged files
        raise InputError(
            f"{path}: {' '.join(str(error).split())}; expected a MATLAB file, version 5"
        ) from error
    images, labels = fields["X"], fields["y"]
    _check_kinds({"X": _kind(images), "y": _kind(labels)}, path)
    digits = as_labels(labels.ravel(), str(path))
    wrong = np.flatnonzero((digits < 1) | (digits > 10))
    if len(wrong):
        raise InputError(
            f"{path}: label {digits[wrong[0]]} at index {wrong[0]}; expected 1 to 9, or 10 for 0"
        )
    return ImageSet(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), digits % 10)


def _kind(value: Any) -> _Kind:
    return np.shape(value), str(getattr(value, "dtype", type(value).__name__))


def _check_kinds(kinds: Mapping[str, _Kind], path: Path) -> None:
    """Checks what images and labels the file says it has, before memory is taken for them."""
    for name in ("X", "y"):
        if name not in kinds:
            raise InputError(
                f"{path}: no {name} among {', '.join(list(kinds)[:10])}; expected X and y"
            )
    (images, image_kind), (labels, label_kind) = kinds["X"], kinds["y"]
    if len(images) != 4 or images[:3] != _SHAPE or labels != (images[3], 1):
        raise InputError(
            f"{path}: X is {images} and y {labels}; expected {(*_SHAPE, 'N')} and ('N', 1)"
        )
    if (image_kind, label_kind) != ("uint8", "uint8"):
        raise InputError(
            f"{path}: X has values of {image_kind} and y of {label_kind}; expected uint8"
        )
    size = math.prod(images)
    if size > _MAX_RATIO * path.stat().st_size:
        raise InputError(f"{path}: X is {images}, {size} bytes; expected no more than the file has")
