"""Splits in files, with what they were made from."""

import hashlib
import json
import os
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ofmu_jax.atomic import write_atomic
from ofmu_jax.data.records import Record, read_records, text_of, value_of
from ofmu_jax.data.vision.images import VisionData
from ofmu_jax.data.vision.requests import (
    ForgetClass,
    ForgetFraction,
    ForgetIndices,
    ForgetRequest,
    class_label,
)
from ofmu_jax.data.vision.splits import Split
from ofmu_jax.errors import InputError


class SavedSplit(NamedTuple):
    """A split, and what it was made from; a class is given by its label."""

    split: Split
    request: ForgetRequest
    seed: int


def fingerprint(data: VisionData) -> str:
    """The SHA-256 of the train images and their labels, the same on every machine."""
    digest = hashlib.sha256(repr(data.train.images.shape).encode())
    digest.update(np.ascontiguousarray(data.train.images).data)
    digest.update(data.train.labels.astype("<i4").data)
    return digest.hexdigest()


def save_split(
    split: Split,
    path: str | os.PathLike[str],
    data: VisionData,
    request: ForgetRequest,
    seed: int,
) -> None:
    """Writes a split as JSON, whole or not at all.

    Args:
      split: of `data`, as `split` makes it.
      path: the file; one that is there is replaced.
      data: what it is of.
      request: what it was made for.
      seed: what it was drawn with.

    Raises:
      InputError: the split is not one of `data`, or the folder of `path` is not there.
    """
    path = Path(path)
    parts = {name: part.tolist() for name, part in split._asdict().items()}
    content = {
        "data": data.name,
        "fingerprint": fingerprint(data),
        "seed": int(seed),
        "request": _written(request, data),
        "sizes": {name: len(part) for name, part in parts.items()},
        **parts,
    }
    _check_split(Record(content, f"the split for {path}"), data)
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}; expected one to write to")
    write_atomic(path, json.dumps(content) + "\n")


def load_split(path: str | os.PathLike[str], data: VisionData) -> SavedSplit:
    """Reads what `save_split` wrote.

    Args:
      path: the file.
      data: what the split must be of.

    Raises:
      InputError: the file cannot be read or is no split; or it is one of other data.
    """
    records = read_records(path)
    if len(records) != 1:
        raise InputError(f"{path}: {len(records)} objects; expected a split")
    (record,) = records
    if text_of(record, "fingerprint") != fingerprint(data):
        raise InputError(
            f"{path}: a split of {reprlib.repr(record.fields.get('data'))} with the fingerprint "
            f"{reprlib.repr(record.fields['fingerprint'])}; expected {fingerprint(data)}, that "
            f"of {data.name}: the images or the labels are others"
        )
    split = _check_split(record, data)
    seed = value_of(record, "seed")
    if type(seed) is not int or seed < 0:
        raise InputError(f"{path}: seed is {reprlib.repr(seed)}; expected at least 0")
    return SavedSplit(split, _read_request(record, split, data), seed)


def _check_split(record: Record, data: VisionData) -> Split:
    """The three parts, if they are a split."""
    split = Split(*(_read_part(record, name, data) for name in Split._fields))
    everything = np.sort(np.concatenate(split))
    if not np.array_equal(everything, np.arange(len(data.train.labels))):
        raise InputError(
            f"{record.where}: {' + '.join(str(len(part)) for part in split)} images of "
            f"{len(data.train.labels)}; expected each of them in one part"
        )
    for name in ("forget", "retain"):
        if not len(getattr(split, name)):
            raise InputError(f"{record.where}: nothing to {name}; expected at least one image")
    sizes = {name: len(part) for name, part in split._asdict().items()}
    if value_of(record, "sizes") != sizes:
        raise InputError(
            f"{record.where}: sizes are {reprlib.repr(record.fields['sizes'])}; expected {sizes}"
        )
    return split


def _read_part(record: Record, name: str, data: VisionData) -> np.ndarray:
    values = value_of(record, name)
    if not isinstance(values, list):
        raise InputError(f"{record.where}: {name} is {reprlib.repr(values)}; expected a list")
    count = len(data.train.labels)
    previous = -1
    for value in values:
        if type(value) is not int or not previous < value < count:
            raise InputError(
                f"{record.where}: {reprlib.repr(value)} in {name} after {previous}; expected "
                f"integers in order, 0 to {count - 1}"
            )
        previous = value
    return np.array(values, np.int64)


def _written(request: ForgetRequest, data: VisionData) -> dict[str, Any]:
    if isinstance(request, ForgetFraction):
        return {"kind": "fraction", "fraction": float(request.fraction)}
    if isinstance(request, ForgetClass):
        return {"kind": "class", "cls": class_label(data, request.cls)}
    # They are the forget set.
    return {"kind": "indices"}


def _read_request(record: Record, split: Split, data: VisionData) -> ForgetRequest:
    match value_of(record, "request"):
        case {"kind": "fraction", "fraction": float() as fraction}:
            return ForgetFraction(fraction)
        case {"kind": "class", "cls": int() as cls}:
            return ForgetClass(class_label(data, cls))
        case {"kind": "indices"}:
            return ForgetIndices(tuple(split.forget.tolist()))
    raise InputError(
        f"{record.where}: request is {reprlib.repr(record.fields['request'])}; expected a "
        "fraction, a class or indices"
    )
