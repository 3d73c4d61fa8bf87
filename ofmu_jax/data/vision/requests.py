"""What is to be forgotten."""

import dataclasses
import itertools
import json
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ofmu_jax.data.records import read_lines
from ofmu_jax.data.vision.images import VisionData
from ofmu_jax.data.vision.npy import read_npy
from ofmu_jax.errors import InputError

# Of a JSON file; numbers of a hundred million images do not fit.
_MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class ForgetFraction:
    """Forget images drawn at random over all classes.

    Attributes:
      fraction: how many of the train images without those for validation; more than 0, less
        than 1.

    Raises:
      InputError: it is no such fraction.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(
                f"the fraction to forget is {self.fraction}; expected more than 0, less than 1"
            )


@dataclasses.dataclass(frozen=True)
class ForgetClass:
    """Forget all train images of a class, without those for validation.

    Attributes:
      cls: its name, or its label.
    """

    cls: int | str


@dataclasses.dataclass(frozen=True)
class ForgetIndices:
    """Forget given train images.

    Attributes:
      indices: their positions among the train images, each once; kept in order.

    Raises:
      InputError: there are none, or one is no integer, negative, or given twice.
    """

    indices: Sequence[int]

    def __post_init__(self) -> None:
        indices = tuple(self.indices)
        for position, index in enumerate(indices):
            # A bool is an int in Python.
            if not isinstance(index, int | np.integer) or isinstance(index, bool) or index < 0:
                raise InputError(
                    f"index {reprlib.repr(index)} at position {position} of the indices to "
                    "forget; expected an integer of at least 0"
                )
        ordered = sorted(map(int, indices))
        if not ordered:
            raise InputError("there are no indices to forget; expected at least one")
        for index, following in itertools.pairwise(ordered):
            if index == following:
                raise InputError(f"index {index} to forget is given twice; expected it once")
        object.__setattr__(self, "indices", tuple(ordered))


ForgetRequest: TypeAlias = ForgetFraction | ForgetClass | ForgetIndices


def class_label(data: VisionData, cls: int | str) -> int:
    """The label of a class.

    Args:
      data: the set.
      cls: its name; or its label, as a number or in digits.

    Raises:
      InputError: there is no such class; the message has those that there are.
    """
    if isinstance(cls, str):
        if cls in data.class_names:
            return data.class_names.index(cls)
        if cls.isascii() and cls.isdecimal() and len(cls) < 10:
            cls = int(cls)
    if not isinstance(cls, str | bool) and 0 <= cls < data.num_classes:
        return int(cls)
    known = ", ".join(f"{label} {name}" for label, name in enumerate(data.class_names))
    raise InputError(f"class {cls!r} of {data.name} does not exist; expected one of {known}")


def read_indices(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Reads indices from a file.

    Args:
      path: `.json` with a list, `.npy` with a vector of integers, or text with one per line.

    Returns:
      The indices in the order of the file.

    Raises:
      InputError: the file cannot be read, or has other values; the message names the first.
    """
    path = Path(path)
    if path.suffix == ".npy":
        array = read_npy(path)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"{path}: {array.dtype} {array.shape}; expected a vector of integers")
        return tuple(array.tolist())
    if path.suffix == ".json":
        return _check_integers(_read_json(path), path)
    return tuple(
        _integer(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)
    )


def _integer(text: str, where: str) -> int:
    digits = text.strip()
    # Python's own reading takes underscores, and digits of all scripts.
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
        raise InputError(f"{where}: {reprlib.repr(text)}; expected an integer of at least 0")
    return int(digits)


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"{path}: more than {_MAX_BYTES} bytes; expected a list of integers")
        return json.loads(content)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a list of integers") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({' '.join(str(error).split())}); expected a list of integers"
        ) from error


def _check_integers(values: Any, path: Path) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise InputError(f"{path}: {type(values).__name__}; expected a list of integers")
    for position, value in enumerate(values):
        if type(value) is not int:
            raise InputError(
                f"{path}: {reprlib.repr(value)} at position {position}; expected an integer"
            )
    return tuple(values)
