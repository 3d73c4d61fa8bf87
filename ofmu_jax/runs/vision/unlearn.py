"""Unlearning an image classifier: any method, one program."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.atomic import write_atomic
from ofmu_jax.data.vision import save_split
from ofmu_jax.errors import InputError
from ofmu_jax.methods.vision import ImageMethod, Problem
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.folder import (
    METRICS,
    RESULTS,
    append_metrics,
    open_folder,
    write_json,
)
from ofmu_jax.runs.vision.config import ImageUnlearnConfig
from ofmu_jax.runs.vision.datasets import image_problem, load_image_request
from ofmu_jax.runs.vision.evaluate import checked_model
from ofmu_jax.runs.vision.models import ImageModel, has_image_model, save_image_model
from ofmu_jax.runs.vision.train import SPLIT

# Of skipped steps in a row.
_MAX_NONFINITE = 5


class ImageOutcome(NamedTuple):
    """What came of a run.

    Attributes:
      variables: of the unlearned model.
      metrics: by name, (steps,).
      diverged: whether a number of it is not finite, or the last update or many in a row were not.
      seconds: wall time, without compilation.
      compile_seconds: of compilation.
    """

    variables: Any
    metrics: dict[str, np.ndarray]
    diverged: bool
    seconds: float
    compile_seconds: float


def unlearn_images(config: ImageUnlearnConfig) -> pathlib.Path:
    """Unlearns as `ofmu images unlearn` does; returns the run folder.

    Raises:
      InputError: as loading does; the method diverged.
    """
    keep_programs(cache_folder())
    request = load_image_request(config.data)
    model = checked_model(config.model, request)
    folder = open_folder(config.output, config)
    if config.output.resume and has_image_model(folder):
        return folder
    save_split(
        request.split, folder / SPLIT, request.data, config.data.request, config.data.split_seed
    )
    problem = image_problem(request, model.classifier, model.variables, config.batch_size)
    outcome = run_method(config.method, problem, jax.random.key(config.seed))
    steps = max((len(values) for values in outcome.metrics.values()), default=0)
    write_atomic(folder / METRICS, "")
    append_metrics(
        folder,
        [
            {"step": k, **{name: float(values[k]) for name, values in outcome.metrics.items()}}
            for k in range(steps)
        ],
    )
    if outcome.diverged:
        raise InputError(
            f"method {config.method.name}: its updates or the unlearned parameters are not finite; "
            "lower the learning rates"
        )
    write_json(
        folder / RESULTS,
        {
            "steps": steps,
            "seconds": outcome.seconds,
            "compile_seconds": outcome.compile_seconds,
        },
    )
    # A folder with a model is taken for a finished run.
    save_image_model(folder, ImageModel(model.classifier, outcome.variables))
    return folder


def compiled(method: ImageMethod, problem: Problem, key: jax.Array) -> tuple[Any, float]:
    """A method's program for a problem, and the seconds that it took to compile."""
    began = time.perf_counter()
    program = jax.jit(method.unlearn).lower(problem, key).compile()
    return program, time.perf_counter() - began


def run_method(
    method: ImageMethod,
    problem: Problem,
    key: jax.Array,
    program: tuple[Any, float] | None = None,
) -> ImageOutcome:
    """Runs a method on a problem.

    Args:
      method: the method.
      problem: the model and the request.
      key: of all that is random in it.
      program: as `compiled` gives it, if it has been called already.
    """
    call, compile_seconds = program or compiled(method, problem, key)
    began = time.perf_counter()
    end = jax.block_until_ready(call(problem, key))
    seconds = time.perf_counter() - began
    metrics = {name: np.asarray(value) for name, value in end.metrics.items()}
    failed = diverged(end.variables, metrics)
    return ImageOutcome(end.variables, metrics, failed, seconds, compile_seconds)


def diverged(variables: Any, metrics: Mapping[str, np.ndarray]) -> bool:
    """Whether a run came to nothing.

    Args:
      variables: what it ended with.
      metrics: by name, (steps,); `notfinite_count` counts skipped steps in a row, if there is one.
    """
    skipped = metrics.get("notfinite_count", np.zeros(1))
    if skipped[-1] > 0 or skipped.max() >= _MAX_NONFINITE:
        return True
    return not bool(_all_finite(variables))


@jax.jit
def _all_finite(variables: Any) -> jax.Array:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(variables)]
    return jnp.all(jnp.stack(leaves))
