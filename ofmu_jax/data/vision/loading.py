"""Image sets by name."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ofmu_jax.data.vision.catalogue import PUBLISHED
from ofmu_jax.data.vision.cifar import CIFAR_LAYOUTS, read_cifar_archive, read_cifar_folder
from ofmu_jax.data.vision.digits import embedded_digits
from ofmu_jax.data.vision.found import Found
from ofmu_jax.data.vision.idx import idx_files, read_idx_folder
from ofmu_jax.data.vision.images import VisionData, channel_statistics, check_images
from ofmu_jax.data.vision.npy import read_npz
from ofmu_jax.data.vision.prepared import read_prepared
from ofmu_jax.data.vision.svhn import SVHN_FILES, read_svhn_folder
from ofmu_jax.errors import InputError

DIGITS, NPZ = "digits", "npz"
IMAGE_SETS = (DIGITS, *PUBLISHED, NPZ)
# A larger label is a mistake, and each takes a name.
_MAX_CLASSES = 1 << 16


class _Form(NamedTuple):
    """A form in which a set is published: what its folder has, and what reads it from there."""

    name: str
    read: Callable[[], Found]


def load_images(name: str, data_dir: str | os.PathLike[str] | None = None) -> VisionData:
    """Loads a set of images.

    Args:
      name: one of `IMAGE_SETS`. `digits` are part of scikit-learn and take no files. `npz` is any
        set, in a file with `x_train`, `y_train`, `x_test`, `y_test` and maybe `class_names`.
      data_dir: a folder with the files as they are published: IDX files for `mnist` and
        `fashion_mnist`, compressed or not; the Python archive of `cifar10` and `cifar100`,
        extracted or not; `train_32x32.mat` and `test_32x32.mat` for `svhn`; `NAME.npz`; or what
        TensorFlow Datasets has prepared. Or the archive, or the `.npz` file, itself. Without it
        published sets come from where TensorFlow Datasets puts them.

    Returns:
      The images in the order of their files, with the mean and the standard deviation that results
      on CIFAR and SVHN are published with (see `catalogue`); otherwise those of the train images.

    Raises:
      InputError: an unknown name; no files, which says what was looked for; a damaged file; or
        images and labels that are not as `VisionData` has them.

    >>> data = load_images("digits")
    >>> data.train.images.shape, data.test.images.shape, data.num_classes
    ((1438, 8, 8, 1), (359, 8, 8, 1), 10)
    """
    if name not in IMAGE_SETS:
        close = difflib.get_close_matches(name, IMAGE_SETS) or IMAGE_SETS
        raise InputError(f"image set {name!r} is unknown; expected one such as {', '.join(close)}")
    found = _find(name, None if data_dir is None else Path(data_dir))
    try:
        return _described(name, found)
    except InputError as error:
        raise InputError(f"{'' if data_dir is None else f'{data_dir}: '}{error}") from error


def _find(name: str, path: Path | None) -> Found:
    if name == DIGITS:
        if path is not None:
            raise InputError(f"data_dir {path}: digits are part of scikit-learn; expected none")
        return embedded_digits()
    if path is None:
        if name == NPZ:
            raise InputError("image set 'npz' without data_dir; expected the path of a .npz file")
        files = " or ".join(form.name for form in _forms(name, Path()))
        return read_prepared(PUBLISHED[name].tfds, files)
    if path.is_file() and path.suffix != ".npz" and name in CIFAR_LAYOUTS:
        return read_cifar_archive(path, CIFAR_LAYOUTS[name])
    if name == NPZ or path.is_file():
        return read_npz(path)
    forms = _forms(name, path)
    for form in forms:
        if (path / form.name).exists():
            return form.read()
    raise InputError(
        f"data_dir {path}: nothing of {name} there; looked for "
        f"{', '.join(form.name for form in forms)}"
    )


def _forms(name: str, folder: Path) -> list[_Form]:
    """The forms of a published set, in the order in which they are looked for."""
    forms = []
    if name in CIFAR_LAYOUTS:
        layout = CIFAR_LAYOUTS[name]
        forms = [
            _Form(layout.folder, lambda: read_cifar_folder(folder / layout.folder, layout)),
            _Form(layout.archive, lambda: read_cifar_archive(folder / layout.archive, layout)),
            # The folder is the one in the archive.
            _Form(layout.train[0], lambda: read_cifar_folder(folder, layout)),
        ]
    elif name == "svhn":
        forms = [_Form(SVHN_FILES[0], lambda: read_svhn_folder(folder))]
    else:
        forms = [_Form(file, lambda: read_idx_folder(folder)) for file in idx_files("train")]
    files = " or ".join(form.name for form in forms)
    prepared = PUBLISHED[name].tfds
    return [
        *forms,
        _Form(f"{name}.npz", lambda: read_npz(folder / f"{name}.npz")),
        _Form(prepared, lambda: read_prepared(prepared, files, folder)),
    ]


def _described(name: str, found: Found) -> VisionData:
    """The set with its classes and statistics."""
    check_images(found.train, f"{name}, train")
    check_images(found.test, f"{name}, test")
    published = PUBLISHED.get(name)
    class_names = found.class_names
    if class_names is None and published is not None:
        class_names = published.class_names
    if class_names is None:
        class_names = _numbered(found, name)
    if published is not None and published.statistics is not None:
        mean, std = (np.array(values, np.float32) for values in published.statistics)
    else:
        mean, std = channel_statistics(found.train.images)
    return VisionData(name, found.train, found.test, len(class_names), class_names, mean, std)


def _numbered(found: Found, name: str) -> tuple[str, ...]:
    """Names for classes that have none."""
    largest = max(int(part.labels.max(initial=0)) for part in (found.train, found.test))
    if largest >= _MAX_CLASSES:
        raise InputError(f"{name}: a label is {largest}; expected less than {_MAX_CLASSES}")
    return tuple(map(str, range(largest + 1)))
