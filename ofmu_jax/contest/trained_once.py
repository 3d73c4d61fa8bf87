"""Models that the processes of one comparison share, and that it finds again."""

import fcntl
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from ofmu_jax.contest.config import Contest
from ofmu_jax.errors import InputError
from ofmu_jax.runs.folder import CONFIG, config_differences, stated


def trainings(contest: Contest, folder: pathlib.Path, replicate: int) -> Iterator[Any]:
    """The configs that train the original and the retrained model of a replicate."""
    for name, split in (("original", "full"), ("retrained", "retain")):
        out = folder / "models" / f"{name}_{replicate}"
        yield contest.training(replicate, split, str(out))


def check_trained(contest: Contest, folder: pathlib.Path) -> None:
    """Checks that the models of a comparison's folder, as far as they are there, are its own.

    Raises:
      InputError: one was trained otherwise.
    """
    for replicate in range(contest.rules.replicates):
        for config in trainings(contest, folder, replicate):
            if (pathlib.Path(config.output.out) / CONFIG).is_file():
                _check_same(config)


def trained_once(
    config: Any, is_whole: Callable[[pathlib.Path], bool], train: Callable[[Any], object]
) -> pathlib.Path:
    """The folder of a model, after `train` has filled it, unless it is whole already.

    Another process that wants the same model waits for it rather than train it too.

    Args:
      config: of the training; its output is the folder.
      is_whole: whether a folder holds a complete model.
      train: trains it, or goes on where training has stopped.
    """
    folder = pathlib.Path(config.output.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(folder):
            train(config)
    return folder


def _check_same(config: Any) -> None:
    folder = pathlib.Path(config.output.out)
    before = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]
    now = json.loads(json.dumps(stated(config)))
    for name, old, new in config_differences(_moved(before), _moved(now)):
        raise InputError(
            f"{folder} was trained with {name}={old!r}, not {new!r}: expected the comparison that "
            "this folder was made by; give another one to --out, or --overwrite to replace it"
        )


def _moved(stated: dict[str, Any]) -> dict[str, Any]:
    """Without where files lie, which may be moved; of a checkpoint its name remains."""
    data = {k: v for k, v in stated["data"].items() if k != "data_dir"}
    return {**stated, "data": data, "model": pathlib.PurePath(stated["model"]).name}
