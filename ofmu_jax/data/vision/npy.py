"""Arrays of numpy's own files, read with nothing pickled and no more memory than the file fills."""

import io
import math
import zipfile
from pathlib import Path
from typing import IO, cast

import numpy as np

from ofmu_jax.data.vision.found import MAX_BYTES, Found
from ofmu_jax.data.vision.images import ImageSet, as_labels
from ofmu_jax.errors import InputError

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path) -> np.ndarray:
    """Reads an array of integers or texts.

    Args:
      path: a `.npy` file.

    Raises:
      InputError: there is no such file, it is none of this format, holds other values, or is not
        of the length that its header says.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a .npy file") from error


def read_npz(path: Path) -> Found:
    """Reads images from a `.npz` file.

    It has `x_train` and `x_test`, uint8 of shape (N, H, W, C) or (N, H, W); `y_train` and `y_test`,
    integers of shape (N,); and maybe `class_names`, texts of shape (K,).

    Raises:
      InputError: there is no such file, it lacks an array, or one of them is as `read_npy` says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            train, test = (_part(archive, part, path) for part in ("train", "test"))
            names = None
            if "class_names.npy" in archive.namelist():
                names = _class_names(_member(archive, "class_names", path), path)
    except InputError:
        raise
    except Exception as error:  # zipfile promises no narrower class for damaged archives
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path}: {' '.join(str(reason).split())}; expected a .npz file"
        ) from error
    return Found(train, test, names)


def _part(archive: zipfile.ZipFile, part: str, path: Path) -> ImageSet:
    images = _member(archive, f"x_{part}", path)
    if images.ndim == 3:
        images = images[..., None]
    labels = _member(archive, f"y_{part}", path)
    return ImageSet(images, as_labels(labels, f"{path}, y_{part}"))


def _class_names(names: np.ndarray, path: Path) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{path}, class_names: {names.dtype} {names.shape}; expected a vector of texts"
        )
    return tuple(names.tolist())


def _member(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError as error:
        keys = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:10])
        raise InputError(f"{path}: no array {key!r} among {keys}; expected it") from error
    with archive.open(info) as file:
        return _read(cast(io.BufferedReader, file), info.file_size, f"{path}, {key}")


def _read(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """Reads an array from a file of a given length."""
    try:
        shape, columns, dtype = _READ_HEADER[np.lib.format.read_magic(file)](file)
    except Exception as error:  # headers are parsed as Python, which fails in many ways
        raise InputError(
            f"{where}: {' '.join(str(error).split())}; expected an array in numpy's format"
        ) from error
    if dtype.kind not in "iuU" or not dtype.itemsize:
        raise InputError(f"{where}: an array of {dtype}; expected integers or texts")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected > MAX_BYTES or file.tell() + expected != size:
        raise InputError(
            f"{where}: {size} bytes for {dtype} {shape}; expected {file.tell() + expected}, "
            f"at most {MAX_BYTES}"
        )
    content = file.read(expected)
    if len(content) != expected:
        raise InputError(f"{where}: {len(content)} bytes of values; expected {expected}")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if columns else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)
