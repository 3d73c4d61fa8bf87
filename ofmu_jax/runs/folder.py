"""A run folder: what a run writes, whole or not at all.

config.json      every value of the config, with versions
metrics.jsonl    one line per step
checkpoints/     to resume from
model/           the resulting model: a Hugging Face folder, its tensors in orbax params/
adapter/         its low-rank adapters in PEFT format, if it was trained with them
results.json     figures of the whole run
"""

import contextlib
import fcntl
import functools
import io
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ofmu_jax.atomic import write_atomic
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import OutputConfig, to_dict, versions
from ofmu_jax.runs.replacing import is_moving, is_set_aside, let_go, put_back, set_aside
from ofmu_jax.scale import everywhere, is_first, wait_for_all

CONFIG, METRICS, CHECKPOINTS, MODEL, RESULTS = (
    "config.json",
    "metrics.jsonl",
    "checkpoints",
    "model",
    "results.json",
)
# What may change when a run goes on: the devices, and which checkpoints are kept.
_FREE = ("mesh", "loop.keep", "loop.keep_best")
# Others lock a folder for a moment while they prepare it.
_PATIENCE_SECONDS = 1.0


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON (a NaN becomes null), whole or not at all; in the first process."""
    if not is_first():
        return
    write_atomic(path, json.dumps(strict_json(value), indent=1, ensure_ascii=False) + "\n")


def write_figure(path: pathlib.Path, figure: Any) -> None:
    """Writes a matplotlib figure as PNG, whole or not at all, and lets go of it."""
    write_atomic(path, png(figure))


def png(figure: Any) -> bytes:
    """A matplotlib figure as PNG; lets go of it."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    return content.getvalue()


def strict_json(value: Any) -> Any:
    """The value with null in place of what strict JSON has no number for."""
    if isinstance(value, dict):
        return {str(k): strict_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def storing(path: pathlib.Path) -> Iterator[None]:
    """Within it, a checkpoint library's own error for a full or failing disk becomes OSError."""
    try:
        yield
    except ValueError as error:  # tensorstore's, with the system's words somewhere within
        text = " ".join(str(error).split())
        if "os_error_code" not in text:
            raise
        raise OSError(f"cannot write {path}: {text.rsplit(': ', 1)[-1].split(' [')[0]}") from error


def check_folder(output: OutputConfig, config: Any, same: bool = True) -> None:
    """Checks that a run may write to its folder; touches nothing.

    Args:
      output: the folder and what may happen to what it holds.
      config: the run's config.
      same: whether only a run with the same config may go on; of others the parts have to know
        by themselves whether they still hold.

    Raises:
      InputError: if the folder is not empty and neither flag is given; if --overwrite or --resume
        is given and it holds something that is no run; if --resume is, and it holds a run of
        another command or with another config; if it may not be written to.
    """
    folder = pathlib.Path(output.out)
    if output.resume and output.overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output folder {folder} is a file")
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output folder {folder}: {there} may not be written to")
    if not folder.is_dir():
        return
    # A kill may have left the first file of a run half written, under another name, or what it was
    # to replace.
    names = [path for path in folder.iterdir() if not path.name.startswith(f".{CONFIG}.")]
    replacing = any(map(is_set_aside, names)) and (output.resume or output.overwrite)
    begun = (folder / CONFIG).is_file() and not is_moving(folder)
    if not names or (replacing and (output.overwrite or not begun)):
        return
    if not (output.resume or output.overwrite):
        raise InputError(
            f"output folder {folder} is not empty: give another, or --resume to go on with the "
            "run it holds, or --overwrite to replace it"
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"output folder {folder} holds no run: it has no {CONFIG}")
    before = _read(folder / CONFIG)
    if output.resume and before.get("command", _command(config)) != _command(config):
        raise InputError(
            f"cannot resume {folder}: it holds a run of {before['command']}, not of "
            f"{_command(config)}"
        )
    if output.resume and same:
        _check_same(folder, before["config"], stated(config))


def open_folder(output: OutputConfig, config: Any, same: bool = True) -> pathlib.Path:
    """Prepares the run folder as `open_run` does, for what other processes may write to as well."""
    with open_run(output, config, same) as folder:
        return folder


@contextlib.contextmanager
def open_run(
    output: OutputConfig, config: Any, same: bool = True, inputs: Mapping[str, str] | None = None
) -> Iterator[pathlib.Path]:
    """Prepares the run folder, with the config in it; within it, it is this run's alone.

    Of several processes of a run, which share it, the first does when all have checked.

    Args:
      output: as `check_folder` takes it, as the rest.
      config: the run's config.
      same: whether only a run with the same config may go on.
      inputs: digests of what the run begins from, by name; only a run from the same may go on.

    Yields:
      The folder. What a run is to replace (`output.overwrite`) is there again after an error before
      its first metrics.

    Raises:
      InputError: as `check_folder` does; another run works in the folder; the one that is to go on
        began from another model or other rows.
    """
    check_folder(output, config, same)
    folder = pathlib.Path(output.out)
    wait_for_all(f"{folder} is checked")
    with contextlib.ExitStack() as stack:
        problem: Exception | None = None
        if is_first():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_alone(folder))
                check_folder(output, config, same)  # others may have come first
                if output.resume and (folder / CONFIG).is_file():
                    _check_inputs(folder, inputs or {})
            except (InputError, OSError) as error:
                problem = error
        if not everywhere(problem is None):
            raise problem or InputError(f"output folder {folder}: the first process may not use it")
        if is_first():
            if output.overwrite or is_moving(folder):
                set_aside(folder)
            stack.push(functools.partial(_settle, folder, output.overwrite))
            if not (output.resume and same and (folder / CONFIG).is_file()):
                _state(folder, config, inputs)
        wait_for_all(f"{folder} is open")
        yield folder


def _state(folder: pathlib.Path, config: Any, inputs: Mapping[str, str] | None) -> None:
    values = {"command": _command(config), "config": stated(config), "versions": versions()}
    write_json(folder / CONFIG, values | ({"inputs": inputs} if inputs else {}))


def _settle(folder: pathlib.Path, overwrite: bool, error: type | None, *_: Any) -> None:
    """At the end: what was set aside goes or, of a run that failed, comes back."""
    if error is None:
        let_go(folder)
    elif overwrite:
        put_back(folder)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Within it, others who ask for the same are refused; the end of a process ends it too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    raise InputError(
                        f"output folder {folder} is in use by another run: wait for its end, or "
                        "give another folder"
                    ) from error
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)


def stated(config: Any) -> dict[str, Any]:
    """The config without what does not belong to the run's identity."""
    values = to_dict(config)
    for name in ("output", "dry_run", "watch"):
        values.pop(name, None)
    return values


def _command(config: Any) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _read(path: pathlib.Path) -> dict[str, Any]:
    """What a run says of itself; others, a model's folder among them, have a config.json too."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict) or not {"config", "versions"} <= values.keys():
        raise InputError(
            f"output folder {path.parent} holds no run: {path.name} is not one of a run, which has "
            "config and versions"
        )
    return values


def _check_same(folder: pathlib.Path, before: Any, stated: dict[str, Any]) -> None:
    for name, old, new in config_differences(before, json.loads(json.dumps(stated))):
        raise InputError(f"cannot resume {folder}: it was run with {name}={old!r}, not {new!r}")


def _check_inputs(folder: pathlib.Path, inputs: Mapping[str, str]) -> None:
    before = _read(folder / CONFIG).get("inputs", {})
    for name, digest in inputs.items():
        if before.get(name, digest) != digest:
            raise InputError(
                f"cannot resume {folder}: its {name} is not what it was; expected the same "
                "checkpoint, data files, tokenizer and drawn answers"
            )


def config_differences(before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two configs, as in `config.json`, are not of one run: names with both values.

    >>> list(config_differences({"loop": {"seed": 0, "keep": 2}}, {"loop": {"seed": 7}}))
    [('loop.seed', 0, 7)]
    """
    for name, old, new in _differences(before, now):
        if name.split(".")[0] not in _FREE and name not in _FREE:
            yield name, old, new


def _differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{prefix}{key}.")
    elif a != b:
        yield prefix.rstrip("."), a, b


def append_metrics(folder: pathlib.Path, records: list[dict[str, Any]]) -> None:
    """Appends one JSON line per record to `metrics.jsonl`; what the run replaces goes now."""
    let_go(folder)
    lines = "".join(json.dumps(strict_json(record)) + "\n" for record in records)
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(lines)


def keep_metrics_before(folder: pathlib.Path, step: int) -> None:
    """Drops the lines of steps >= `step`, which a resumed run will write again."""
    path = folder / METRICS
    if path.exists():
        kept = [r for r in read_metrics(folder) if r["step"] < step]
        write_atomic(path, "".join(json.dumps(r) + "\n" for r in kept))


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a last line that was cut off is left out.

    Raises:
      InputError: a line is no record of a step.
    """
    return read_json_lines(folder / METRICS, {"step": int})


def read_json_lines(path: pathlib.Path, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The objects of a file to which lines are appended; a last line that was cut off is left out.

    Args:
      path: the file.
      fields: what every object has, and of what type.

    Raises:
      InputError: a line is something else.
    """
    records = []
    # In bytes, as what cut off a line may have cut a character.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict) or not all(
                isinstance(record.get(name), kind) for name, kind in fields.items()
            ):
                expected = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
                raise InputError(f"{path}, line {number}: expected an object with {expected}")
            records.append(record)
    return records
