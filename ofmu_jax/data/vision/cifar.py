"""The Python archives of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import gzip
import math
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

import numpy as np

from ofmu_jax.data.vision.arrays_in_pickles import read_pickled_dict
from ofmu_jax.data.vision.found import Found
from ofmu_jax.data.vision.images import ImageSet, as_labels
from ofmu_jax.errors import InputError

# CIFAR-100's largest takes 155 million bytes, half as much again if written anew in protocol 2.
_MAX_FILE = 1 << 28
_MAX_ARCHIVE = 1 << 30
_MAX_MEMBERS = 1000
_BLOCK = 1 << 20
# Channels, height and width, in the order in which a row has its pixels.
_SHAPE = (3, 32, 32)


class CifarLayout(NamedTuple):
    """What an archive holds.

    Attributes:
      folder: its one folder.
      archive: its own name.
      train: the files with train images, in order.
      test: the file with test images.
      labels: the key of the labels.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    labels: str


CIFAR_LAYOUTS = {
    "cifar10": CifarLayout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "labels",
    ),
    "cifar100": CifarLayout(
        "cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test", "fine_labels"
    ),
}


def read_cifar_folder(folder: Path, layout: CifarLayout) -> Found:
    """Reads the files of an archive that has been extracted.

    Args:
      folder: the one with the files in it.
      layout: which files.

    Raises:
      InputError: a file is missing, or is none of CIFAR's.
    """
    contents = {name: _read_file(folder / name) for name in (*layout.train, layout.test)}
    return _found(contents, layout, str(folder))


def read_cifar_archive(path: Path, layout: CifarLayout) -> Found:
    """Reads an archive as it is; nothing is extracted to disk.

    Raises:
      InputError: it is no such archive, lacks a file, is too large, or has one that is none of
        CIFAR's.
    """
    try:
        with gzip.open(path) as file:
            stream = _Bounded(file, str(path))
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
                contents = dict(_members(archive, layout, str(path)))
            # The checksum is at the end.
            while stream.read(_BLOCK):
                pass
    except InputError:
        raise
    except Exception as error:  # tarfile promises no narrower class for damaged archives
        raise InputError(
            f"{path}: {' '.join(str(error).split())}; expected {layout.archive}"
        ) from error
    for name in (*layout.train, layout.test):
        if name not in contents:
            raise InputError(f"{path}: no file {layout.folder}/{name}; expected {layout.archive}")
    return _found(contents, layout, str(path))


class _Bounded:
    """A compressed file, of which not more than an archive should have can be read."""

    def __init__(self, file: gzip.GzipFile, where: str) -> None:
        self._file = file
        self._where = where
        self._left = _MAX_ARCHIVE

    def read(self, size: int) -> bytes:
        """The next bytes, of which there may be fewer at the end."""
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise InputError(
                f"{self._where}: more than {_MAX_ARCHIVE} bytes; expected an archive of CIFAR"
            )
        return content


def _members(
    archive: tarfile.TarFile, layout: CifarLayout, where: str
) -> Iterator[tuple[str, bytes]]:
    """The files that the layout names, with their contents."""
    wanted = {*layout.train, layout.test}
    for number, member in enumerate(archive):
        if number >= _MAX_MEMBERS:
            raise InputError(
                f"{where}: more than {_MAX_MEMBERS} members; expected {layout.archive}"
            )
        name = PurePosixPath(member.name)
        if name.parent.name != layout.folder or name.name not in wanted:
            continue
        # A sparse member could have any length.
        if not member.isreg() or member.issparse() or member.size > _MAX_FILE:
            raise InputError(
                f"{where}: member {name} is no file of at most {_MAX_FILE} bytes; "
                f"expected {layout.archive}"
            )
        yield name.name, cast(IO[bytes], archive.extractfile(member)).read()
        wanted.remove(name.name)
        if not wanted:
            return


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of CIFAR") from error
    if len(content) > _MAX_FILE:
        raise InputError(f"{path}: more than {_MAX_FILE} bytes; expected a file of CIFAR")
    return content


def _found(contents: Mapping[str, bytes], layout: CifarLayout, where: str) -> Found:
    batches = {
        name: _batch(content, layout.labels, f"{where}, {name}")
        for name, content in contents.items()
    }
    train = [batches[name] for name in layout.train]
    images = np.concatenate([batch.images for batch in train])
    labels = np.concatenate([batch.labels for batch in train])
    return Found(ImageSet(images, labels), batches[layout.test])


def _batch(content: bytes, labels_key: str, where: str) -> ImageSet:
    fields = read_pickled_dict(content, where)
    rows, labels = _field(fields, "data", where), _field(fields, labels_key, where)
    width = math.prod(_SHAPE)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (width,):
        kind = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise InputError(f"{where}: 'data' is {kind}; expected uint8 (N, {width})")
    if isinstance(labels, list):
        # Numbers beyond these would have no place in an array.
        if not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
            raise InputError(f"{where}: {labels_key!r} has other values; expected class numbers")
        labels = np.array(labels, np.int64)
    if not isinstance(labels, np.ndarray) or labels.shape != rows.shape[:1]:
        raise InputError(
            f"{where}: {labels_key!r} is no list of {len(rows)} labels; expected one of each image"
        )
    images = np.ascontiguousarray(rows.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1))
    return ImageSet(images, as_labels(labels, where))


def _field(fields: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in fields:
        raise InputError(
            f"{where}: no {key!r} among {', '.join(map(repr, sorted(fields)[:10]))}; expected it"
        )
    return fields[key]
