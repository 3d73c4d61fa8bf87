"""What a run shows of itself on the way: a profiler's trace of a few steps, metrics elsewhere.

profile/       the trace, for TensorBoard's profile plugin, XProf and Perfetto
tensorboard/   the metrics of metrics.jsonl as event files
wandb/         what Weights & Biases keeps of them here, and the run's id there
"""

import contextlib
import json
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ofmu_jax.atomic import write_atomic
from ofmu_jax.runs.config import WatchConfig
from ofmu_jax.runs.folder import CONFIG

PROFILE, TENSORBOARD, WANDB = "profile", "tensorboard", "wandb"
# The first step of a process also pays for what is then kept.
_SKIPPED, _PROFILED = 1, 3

Records = Sequence[Mapping[str, Any]]


class Watcher(NamedTuple):
    """What the loop tells of itself.

    Attributes:
      step: to be called before each step, with its number and the state it starts from.
      note: to be called with the records that are written to metrics.jsonl.
    """

    step: Callable[[int, Any], None]
    note: Callable[[Records], None]


@contextlib.contextmanager
def watching(folder: pathlib.Path, config: WatchConfig, start: int) -> Iterator[Watcher]:
    """Within it, a run from step `start` on is watched as the config says.

    Args:
      folder: the run folder.
      config: what is asked for; in a process that is not the first of a run, nothing should be.
      start: the number of the first step; what TensorBoard has of it and later ones is dropped.
    """
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(_profiler(folder / PROFILE, start)) if config.profile else _none
        notes = []
        if config.tensorboard:
            notes.append(stack.enter_context(_events(folder / TENSORBOARD, start)))
        if config.wandb:
            notes.append(stack.enter_context(_wandb(folder)))

        def note(records: Records) -> None:
            for tell in notes:
                tell(records)

        yield Watcher(step, note)


def _none(*_: Any) -> None:
    """Watches nothing."""


@contextlib.contextmanager
def _profiler(folder: pathlib.Path, start: int) -> Iterator[Callable[[int, Any], None]]:
    running = False

    def step(k: int, state: Any) -> None:
        nonlocal running
        if k in (start + _SKIPPED, start + _SKIPPED + _PROFILED):
            # Steps are only queued by the loop: those before end here, not in the trace.
            jax.block_until_ready(state)
            if running:
                jax.profiler.stop_trace()
            else:
                jax.profiler.start_trace(folder)
            running = not running

    try:
        yield step
    finally:
        if running:
            jax.profiler.stop_trace()


@contextlib.contextmanager
def _events(folder: pathlib.Path, start: int) -> Iterator[Callable[[Records], None]]:
    from tensorboardX import SummaryWriter

    def note(records: Records) -> None:
        for record in records:
            for name, value in record.items():
                if name != "step":
                    writer.add_scalar(name, value, record["step"])
        writer.flush()

    # Files bear the second they were begun in: one of a run that goes on at once would be the same.
    suffix = f".{start:09d}"
    events = SummaryWriter(str(folder), purge_step=start, filename_suffix=suffix)
    with contextlib.closing(events) as writer:
        yield note


@contextlib.contextmanager
def _wandb(folder: pathlib.Path) -> Iterator[Callable[[Records], None]]:
    import wandb

    known = folder / WANDB / "id"
    if not known.exists():
        known.parent.mkdir(exist_ok=True)
        write_atomic(known, uuid.uuid4().hex)
    # Steps that a run takes again are the same to the bit; those already there are passed over.
    with wandb.init(
        id=known.read_text(encoding="utf-8"),
        resume="allow",
        dir=folder,
        name=folder.name,
        config=json.loads((folder / CONFIG).read_text(encoding="utf-8")),
    ) as run:

        def note(records: Records) -> None:
            for record in records:
                scalars = {name: value for name, value in record.items() if name != "step"}
                run.log(scalars, step=record["step"])

        yield note
