"""The training loop that every run shares: steps, metrics, checkpoints, a progress bar."""

import contextlib
import logging
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from ofmu_jax.errors import InputError
from ofmu_jax.runs.checkpoints import Checkpoints
from ofmu_jax.runs.config import NOTHING, LoopConfig, WatchConfig
from ofmu_jax.runs.folder import append_metrics, keep_metrics_before
from ofmu_jax.runs.stopping import Stopped, stop_requests
from ofmu_jax.runs.watching import Watcher, watching

_logger = logging.getLogger(__name__)


class LoopResult(NamedTuple):
    """What a loop ends with.

    Attributes:
      state: the last state.
      seconds: wall time of the steps of this process, without compilation.
      compile_seconds: wall time of compilation.
    """

    state: Any
    seconds: float
    compile_seconds: float


def run_loop(
    step: Any,
    state: Any,
    batch: Callable[[int], tuple[Any, ...]],
    steps: int,
    loop: LoopConfig,
    folder: pathlib.Path,
    *,
    label: str,
    resume: bool = False,
    watch: WatchConfig = NOTHING,
) -> LoopResult:
    """Takes steps 0..steps-1 and writes metrics and checkpoints.

    In a run of several processes each calls it; the first writes the metrics.

    Args:
      step: a jitted `(state, *batch) -> (state, metrics)`; metrics are scalars, among them
        `notfinite_count`, the number of consecutive steps without a finite update.
      state: a pytree of arrays; donated.
      batch: the batch of each step, a pure function of its number.
      steps: how many steps the whole run has.
      loop: what to note on the way.
      folder: the run folder.
      label: what the progress bar says.
      resume: go on from the last checkpoint in the folder, if there is one.
      watch: what the first process shows of the steps.

    Raises:
      InputError: the step has no metric `loop.keep_best`; there are checkpoints and `resume` is not
        set, or none of them can be gone on from; updates were not finite `loop.max_nonfinite` times
        in a row.
      Stopped: SIGTERM or SIGINT came; there is a checkpoint of all steps that were taken.
    """
    if loop.keep_best is not None:
        _check_metric(loop.keep_best, step, state, batch(0))
    shown = jax.process_index() == 0
    with (
        stop_requests() as asked,
        contextlib.closing(Checkpoints(folder, loop.keep, loop.keep_best)) as checkpoints,
    ):
        start = 0
        if resume:
            start, state = checkpoints.restore(state)
        elif checkpoints.steps:
            raise InputError(f"{folder} has checkpoints of another run: give an empty folder")
        if shown:
            keep_metrics_before(folder, start)

        pending: list[tuple[int, Any]] = []
        last: dict[str, Any] = {}
        programs: dict[Any, Any] = {}
        compile_seconds, began = 0.0, time.perf_counter()
        with (
            watching(folder, watch if shown else NOTHING, start) as watcher,
            tqdm(
                total=steps, initial=start, desc=label, unit="step", disable=None if shown else True
            ) as bar,
        ):
            k = start
            while (signal := asked(k)) is None and k < steps:
                inputs = batch(k)
                shapes = tuple(x.shape for x in jax.tree.leaves(inputs))
                if shapes not in programs:
                    bar.set_postfix_str("compiling")
                    compiling = time.perf_counter()
                    programs[shapes] = step.lower(state, *inputs).compile()
                    compile_seconds += time.perf_counter() - compiling
                    if len(programs) == 1:
                        # The remaining time that the bar shows is that of the steps alone.
                        bar.start_t = bar.last_print_t = time.time()
                watcher.step(k, state)
                state, metrics = programs[shapes](state, *inputs)
                pending.append((k, metrics))
                k += 1
                saving = k % loop.checkpoint_every == 0 and k < steps
                # A checkpoint's metrics are on the disk before it is: a run that goes on from it
                # does not make them again.
                if saving or k % loop.log_every == 0 or k == steps:
                    last = _note(pending, folder, loop, label, watcher)
                    bar.set_postfix_str(_key_figures(last))
                if saving:
                    checkpoints.save(k, state, last)
                bar.update()
            if signal is not None:
                if pending:
                    last = _note(pending, folder, loop, label, watcher)
                if k > start:
                    checkpoints.save(k, state, last)
                raise Stopped(signal, k)
            jax.block_until_ready(state)
        seconds = time.perf_counter() - began - compile_seconds
    if shown:
        _logger.info(
            f"{label}: {steps - start} steps in {seconds:.1f} s, compiled in "
            f"{compile_seconds:.1f} s"
        )
    return LoopResult(state, seconds, compile_seconds)


def _check_metric(name: str, step: Any, state: Any, inputs: tuple[Any, ...]) -> None:
    """Raises InputError if the step has no such metric; computes nothing."""
    _, metrics = jax.eval_shape(step, state, *inputs)
    if name not in metrics:
        raise InputError(
            f"keep_best is {name!r}; expected a metric of a step: {', '.join(sorted(metrics))}"
        )


def _note(
    pending: list[tuple[int, Any]],
    folder: pathlib.Path,
    loop: LoopConfig,
    label: str,
    watcher: Watcher,
) -> dict[str, Any]:
    """Writes the metrics of the steps since the last note, empties them; returns the last ones."""
    records = [
        {"step": k, **{name: value.item() for name, value in metrics.items()}}
        for k, metrics in jax.device_get(pending)
    ]
    pending.clear()
    if jax.process_index() == 0:
        append_metrics(folder, records)
    watcher.note(records)
    for record in records:
        if record["notfinite_count"] >= loop.max_nonfinite:
            losses = ", ".join(f"{k}={v:g}" for k, v in record.items() if "loss" in k)
            raise InputError(
                f"{label}: the update was not finite {loop.max_nonfinite} times in a row, last at "
                f"step {record['step']} ({losses}); lower the learning rates or bound rho"
            )
    return records[-1]


def _key_figures(record: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in record.items()
        if name in ("loss", "forget_loss", "retain_loss", "cosine", "curvature")
        and not math.isnan(value)
    )
