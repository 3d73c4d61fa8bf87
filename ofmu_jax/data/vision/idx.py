"""The IDX files of MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017).

A file is two zero bytes, the code of its type, its number of axes, the length of each as a
big-endian uint32, and the values.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import cast

import numpy as np

from ofmu_jax.data.vision.found import MAX_BYTES, Found, first_file
from ofmu_jax.data.vision.images import ImageSet, as_labels
from ofmu_jax.errors import InputError

_UINT8 = 8
_BLOCK = 1 << 20


def idx_files(part: str) -> tuple[str, ...]:
    """The names that the images of a part have, in the order in which they are looked for.

    >>> idx_files("t10k")
    ('t10k-images-idx3-ubyte.gz', 't10k-images-idx3-ubyte')
    """
    return _names(part, "images-idx3")


def read_idx_folder(folder: Path) -> Found:
    """Reads the four official files, each compressed with gzip or not.

    Raises:
      InputError: a file is missing, is none of this format, or ends early; or a set has not as
        many images as labels.
    """
    return Found(_read_part(folder, "train"), _read_part(folder, "t10k"))


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads one file.

    Args:
      path: the file; compressed if its name ends in `.gz`.
      axes: how many it must have.

    Returns:
      An array of uint8 with that many axes.

    Raises:
      InputError: as `read_idx_folder`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(cast(io.BufferedReader, file), axes, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: {error}; expected an IDX file") from error


def _names(part: str, kind: str) -> tuple[str, ...]:
    return f"{part}-{kind}-ubyte.gz", f"{part}-{kind}-ubyte"


def _read_part(folder: Path, part: str) -> ImageSet:
    image_path = first_file(folder, *idx_files(part))
    label_path = first_file(folder, *_names(part, "labels-idx1"))
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{image_path} has {len(images)} images and {label_path} {len(labels)} labels; "
            "expected as many"
        )
    return ImageSet(images[..., None], as_labels(labels, str(label_path)))


def _read(file: io.BufferedReader, axes: int, where: str) -> np.ndarray:
    magic = bytes((0, 0, _UINT8, axes))
    length = len(magic) + 4 * axes
    header = file.read(length)
    if header[:4] != magic:
        raise InputError(
            f"{where}: begins with the bytes {header[:4].hex(' ')!r}; expected {magic.hex(' ')!r}, "
            f"an IDX file of {axes} axes"
        )
    if len(header) < length:
        raise InputError(f"{where}: a header of {len(header)} bytes; expected {length}")
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise InputError(f"{where}: its header says {shape}; expected at most {MAX_BYTES} bytes")
    content = _content(file, size, where)
    if len(content) != size:
        found = f"{len(content)}" if len(content) < size else f"more than {size}"
        raise InputError(f"{where}: {found} bytes of values; expected {size} as its header says")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _content(file: io.BufferedReader, size: int, where: str) -> bytearray:
    """What the file has, up to one byte more than it should."""
    content = bytearray()
    while len(content) <= size:
        try:
            # Unlike `read`, it loses nothing of what comes before the end of a cut-off stream.
            block = file.read1(min(_BLOCK, size + 1 - len(content)))
        except EOFError as error:
            if len(content) < size:
                break
            raise InputError(f"{where}: its last bytes are missing; expected all of it") from error
        if not block:
            break
        content += block
    return content
