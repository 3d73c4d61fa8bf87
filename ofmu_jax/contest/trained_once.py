"""Models that the processes of one comparison share."""

import fcntl
import pathlib
from collections.abc import Callable


def trained_once(
    folder: pathlib.Path,
    is_whole: Callable[[pathlib.Path], bool],
    train: Callable[[], object],
) -> pathlib.Path:
    """The folder, after `train` has filled it, unless it is whole already.

    Another process that wants the same model waits for it rather than train it too.

    Args:
      folder: of the model.
      is_whole: whether a folder holds a complete model.
      train: trains it, or goes on where training has stopped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(folder):
            train()
    return folder
