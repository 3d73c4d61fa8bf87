"""A run that replaces another: what was there goes when the new one has begun, not before.

It is moved aside within its folder, and back if nothing comes of the new run: a refusal that shows
only later, such as that of a metric that the step does not have, costs nothing then.
"""

import pathlib
import shutil

SET_ASIDE, _MOVING = ".replaced", ".replacing"


def set_aside(folder: pathlib.Path) -> None:
    """Moves what a folder holds aside; what a kill has left there already stays it."""
    aside, moving = folder / SET_ASIDE, folder / _MOVING
    if aside.is_dir():
        _remove_all_but(aside)
        return
    moving.mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        if path != moving:
            path.rename(moving / path.name)
    moving.rename(aside)


def put_back(folder: pathlib.Path) -> None:
    """Makes the folder what it was before `set_aside`, unless `let_go` came in between."""
    aside = folder / SET_ASIDE
    if aside.is_dir():
        _remove_all_but(aside)
        for path in list(aside.iterdir()):
            path.rename(folder / path.name)
        aside.rmdir()


def let_go(folder: pathlib.Path) -> None:
    """Deletes what was set aside, if anything was."""
    shutil.rmtree(folder / SET_ASIDE, ignore_errors=True)


def is_moving(folder: pathlib.Path) -> bool:
    """Whether a kill has come while what the folder holds was moved aside."""
    return (folder / _MOVING).is_dir()


def is_set_aside(path: pathlib.Path) -> bool:
    """Whether that is where things are set aside."""
    return path.name in (SET_ASIDE, _MOVING)


def _remove_all_but(kept: pathlib.Path) -> None:
    for path in list(kept.parent.iterdir()):
        if path == kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
