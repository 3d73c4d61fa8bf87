"""The training loop that every run shares: steps, metrics, checkpoints, a progress bar."""

import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp
from tqdm import tqdm

from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import CHECKPOINTS, append_metrics, keep_metrics_before, storing


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
) -> LoopResult:
    """Takes steps 0..steps-1 and writes metrics and checkpoints.

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

    Raises:
      InputError: if updates were not finite `loop.max_nonfinite` times in a row.
    """
    checkpointer = ocp.training.Checkpointer(
        (folder / CHECKPOINTS).absolute(),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=ocp.training.preservation_policies.LatestN(2),
    )
    start = 0
    if resume and checkpointer.latest is not None:
        start = checkpointer.latest.step
        state = checkpointer.load(start, jax.tree.map(_abstract, state))
    keep_metrics_before(folder, start)

    pending: list[tuple[int, Any]] = []
    programs: dict[Any, Any] = {}
    compile_seconds, began = 0.0, time.perf_counter()
    with tqdm(total=steps, initial=start, desc=label, unit="step", disable=None) as bar:
        for k in range(start, steps):
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
            state, metrics = programs[shapes](state, *inputs)
            pending.append((k, metrics))
            if (k + 1) % loop.log_every == 0 or k + 1 == steps:
                bar.set_postfix_str(_note(pending, folder, loop, label))
                pending.clear()
            if (k + 1) % loop.checkpoint_every == 0 and k + 1 < steps:
                with storing(folder / CHECKPOINTS):
                    checkpointer.save(k + 1, state)
            bar.update()
        jax.block_until_ready(state)
    seconds = time.perf_counter() - began - compile_seconds
    checkpointer.close()
    print(
        f"{label}: {steps - start} steps in {seconds:.1f} s, compiled in {compile_seconds:.1f} s",
        file=sys.stderr,
    )
    return LoopResult(state, seconds, compile_seconds)


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _note(
    pending: list[tuple[int, Any]], folder: pathlib.Path, loop: LoopConfig, label: str
) -> str:
    """Writes the metrics of the steps since the last note; returns the key figures."""
    records = [
        {"step": k, **{name: value.item() for name, value in metrics.items()}}
        for k, metrics in jax.device_get(pending)
    ]
    append_metrics(folder, records)
    for record in records:
        if record["notfinite_count"] >= loop.max_nonfinite:
            losses = ", ".join(f"{k}={v:g}" for k, v in record.items() if "loss" in k)
            raise InputError(
                f"{label}: the update was not finite {loop.max_nonfinite} times in a row, last at "
                f"step {record['step']} ({losses}); lower the learning rates or bound rho"
            )
    shown = [
        f"{name}={value:.3g}"
        for name, value in records[-1].items()
        if name in ("loss", "forget_loss", "retain_loss", "cosine", "curvature")
        and not math.isnan(value)
    ]
    return " ".join(shown)
