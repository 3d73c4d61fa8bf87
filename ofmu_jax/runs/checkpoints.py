"""Checkpoints of a run: written beside the steps, the latest and the best kept, damage survived.

checkpoints/120           the state after 120 steps, with the fingerprint of the run
checkpoints/damaged_160   one that could not be read, put aside
"""

import contextlib
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ofmu_jax.errors import InputError
from ofmu_jax.runs.folder import CHECKPOINTS, CONFIG, config_differences, storing
from ofmu_jax.scale import everywhere

_logger = logging.getLogger(__name__)
_WIDTHS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


class Checkpoints:
    """The checkpoints in a run folder. In a run of several processes each calls every method."""

    def __init__(self, folder: pathlib.Path, keep: int, keep_best: str | None = None) -> None:
        """Opens the checkpoints of a run; removes what a kill left of one that was being written.

        Args:
          folder: the run folder; shared storage, if there are several processes.
          keep: how many of the latest are kept.
          keep_best: also keep the one with the smallest value of this metric.
        """
        self._folder = folder
        self._path = (folder / CHECKPOINTS).absolute()
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(keep)]
        self._metrics: dict[int, Mapping[str, float]] = {}
        if keep_best is not None:
            kept.append(_Smallest(keep_best, self._metrics))
        self._checkpointer = ocp.training.Checkpointer(
            self._path,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        for step in self.steps:
            self._metrics[step] = self._metadata(step).get("metrics", {})

    @property
    def steps(self) -> list[int]:
        """The numbers of the checkpoints, ascending, with one that is being written."""
        return [found.step for found in self._checkpointer.checkpoints]

    def save(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Starts to write a checkpoint, once the one before is written; the first of a step counts.

        Args:
          step: how many steps led to the state.
          state: a pytree of `jax.Array`s. It may be donated right afterwards: it is copied to the
            host first, or, where it lies there, its buffers are not given away while they are read.
          metrics: of the last step, to find the best one by.

        Raises:
          OSError: a disk is full or fails, also for the checkpoint before.
        """
        if step in self.steps:
            return
        self._metrics[step] = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        known = {
            **_fingerprint(self._folder, state),
            "checksums": _checksums(state),
            "metrics": self._metrics[step],
        }
        with storing(self._path):
            self._checkpointer.save_async(step, state, force=True, custom_metadata=known)

    def restore(self, state: Any) -> tuple[int, Any]:
        """The latest checkpoint that can be read. Later ones are renamed, which stderr is told of.

        Args:
          state: what a run begins with, for its structure, types and shardings, whatever those of
            the checkpoint's arrays were; its buffers are freed if there is a checkpoint.

        Returns:
          The number of the checkpoint and its state; 0 and `state` if there is none.

        Raises:
          InputError: the latest is of another model or run, or none can be read. Nothing is
            changed.
        """
        target = jax.tree.map(_abstract, state)
        problems: dict[int, str] = {}
        for step in reversed(self.steps):
            known = self._metadata(step)
            _check_same(self._path / str(step), known, _fingerprint(self._folder, target))
            # There may be no room for two states.
            jax.tree.map(lambda x: x.is_deleted() or x.delete(), state)
            restored, problem = self._read(step, target, known)
            if problem is None:
                self._put_aside(problems, step)
                return step, restored
            problems[step] = problem
        if problems:
            step, problem = next(iter(problems.items()))
            raise InputError(
                f"cannot resume {self._folder}: no checkpoint of it can be read, the latest being "
                f"{step} ({problem}); --overwrite begins anew"
            )
        return 0, state

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          OSError: a disk is full or fails.
        """
        with storing(self._path):
            self._checkpointer.close()

    def _metadata(self, step: int) -> Mapping[str, Any]:
        """What was stored beside a state; empty if it cannot be read, or an older version's."""
        try:
            return self._checkpointer.metadata(step).custom_metadata or {}
        except Exception:  # of whatever kind damage leads to; reading the state says more
            return {}

    def _read(self, step: int, target: Any, known: Mapping[str, Any]) -> tuple[Any, str | None]:
        """A checkpoint's state, or what is wrong with it; the same for all processes."""
        restored = problem = None
        try:
            with _alone() if jax.process_count() > 1 else contextlib.nullcontext():
                restored = ocp.load(self._path / str(step), target)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # of whatever kind damage leads to
            problem = _words_of(error)
        if not everywhere(problem is None):
            return None, problem or "another process could not read it"
        before = known.get("checksums", {})
        for name, value in _checksums(restored).items():
            if before.get(name, value) != value:
                return None, f"the checksum of {name} is {value}, not {before[name]}"
        return restored, None

    def _put_aside(self, problems: Mapping[int, str], step: int) -> None:
        """Renames damaged checkpoints, so that their steps can be saved again."""
        if not problems:
            return
        if jax.process_index() == 0:
            for damaged, problem in problems.items():
                path = _unused(self._path / f"damaged_{damaged}")
                (self._path / str(damaged)).rename(path)
                _logger.warning(
                    f"checkpoint {damaged} of {self._folder} cannot be read ({problem}): it is now "
                    f"{path.name}, and the run goes on from checkpoint {step}"
                )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._checkpointer.reload()


class _Smallest:
    """Preserves the checkpoint with the smallest value of a metric, of equal ones the latest."""

    def __init__(self, name: str, metrics: Mapping[int, Mapping[str, float]]) -> None:
        self._name, self._metrics = name, metrics

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer per checkpoint."""
        found = [self._metrics.get(c.step, {}).get(self._name, math.inf) for c in checkpoints]
        best = min(found, default=math.inf)
        last = max((i for i, x in enumerate(found) if x == best < math.inf), default=-1)
        return [i == last for i in range(len(found))]


def _fingerprint(folder: pathlib.Path, state: Any) -> dict[str, Any]:
    """What a state belongs to: its leaves' names, types and shapes, and the run's config."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    config = folder / CONFIG
    return {
        "state": {_name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves},
        "config": json.loads(config.read_text(encoding="utf-8"))["config"]
        if config.is_file()
        else None,
    }


def _check_same(path: pathlib.Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint has the fingerprint of another run or model."""
    reasons = []
    if before.get("config") and now["config"]:
        for name, old, new in config_differences(before["config"], now["config"]):
            reasons.append(f"it was run with {name}={old!r}, not {new!r}")
            break
    if "state" in before:
        for name in [*before["state"], *now["state"]]:
            old, new = (x["state"].get(name, "absent") for x in (before, now))
            if old != new:
                reasons.append(f"its {name} is {old}, not {new}")
                break
    if reasons:
        raise InputError(f"cannot resume from {path}: {'; '.join(reasons)}")


def _checksums(state: Any) -> dict[str, int]:
    """The sum of the 32-bit words of every leaf, modulo 2**32; the same on every mesh."""
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    sums = jax.device_get(_sums(jax.tree.leaves(state)))
    return {name: int(value) for name, value in zip(names, sums, strict=True)}


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(_words(x), dtype=jnp.uint32) for x in leaves]


def _words(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, _WIDTHS[x.dtype.itemsize]).astype(jnp.uint32)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _alone() -> ocp.Context:
    """Within it, orbax waits for no other process, which may have met with an error."""
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    return context


def _words_of(error: BaseException) -> str:
    """The innermost cause in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _unused(path: pathlib.Path) -> pathlib.Path:
    """The path, or the first of path_2, path_3... that is not there."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}_{number}")
    return found
