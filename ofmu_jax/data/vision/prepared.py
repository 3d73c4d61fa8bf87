"""Image sets of TensorFlow Datasets."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofmu_jax.data.vision.found import Found
from ofmu_jax.data.vision.images import ImageSet, as_labels
from ofmu_jax.errors import InputError


def read_prepared(name: str, files: str, data_dir: Path | None = None) -> Found:
    """Reads a set that TensorFlow Datasets has prepared, or can.

    Reading takes the format `array_record` and no TensorFlow. Without TensorFlow, however, the
    library cannot prepare these sets, so that nothing is downloaded.

    Args:
      name: of the set there.
      files: which files serve as well; for the message.
      data_dir: where the set is, prepared; by default it is where the library puts them, or comes
        to be there.

    Raises:
      InputError: the library is not installed, or the set is not there and cannot be had.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"{name} needs tensorflow-datasets: pip install 'ofmu-jax[tfds]'; or data_dir, a "
            f"folder with {files}"
        ) from error
    download = data_dir is None and importlib.util.find_spec("tensorflow") is not None
    try:
        train, test = tfds.data_source(
            name,
            split=["train", "test"],
            data_dir=data_dir,
            download=download,
        )
        return Found(_stack(train, f"{name}, train"), _stack(test, f"{name}, test"))
    except InputError:
        raise
    except Exception as error:  # the library promises no narrower class
        raise InputError(
            f"{name} of TensorFlow Datasets: {' '.join(str(error).split()).rstrip('.')}; expected "
            f"it prepared in the format array_record, or data_dir, a folder with {files}"
        ) from error


def _stack(rows: Sequence[Any], where: str) -> ImageSet:
    if not len(rows):
        raise InputError(f"{where}: no images; expected at least one")
    images = np.empty((len(rows), *rows[0]["image"].shape), np.uint8)
    labels = np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        images[index], labels[index] = row["image"], row["label"]
    return ImageSet(images, as_labels(labels, where))
