"""What a reader finds in files, before it becomes `VisionData`."""

from pathlib import Path
from typing import NamedTuple

from ofmu_jax.data.vision.images import ImageSet
from ofmu_jax.errors import InputError

# More than any of the sets takes; without a limit a wrong file would fill the memory.
MAX_BYTES = 1 << 32


class Found(NamedTuple):
    """The images of a set.

    Attributes:
      train: what models learn from.
      test: what they are tested with.
      class_names: by label, where the files name them.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...] | None = None


def first_file(folder: Path, *names: str) -> Path:
    """The first of several names that a folder has a file of.

    Raises:
      InputError: it has none.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: no file {' or '.join(names)}; expected it beside the others")
