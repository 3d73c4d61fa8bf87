"""How long a run is, and what it leaves behind."""

import pathlib

import jax

from ofmu_jax.data import steps_per_epoch
from ofmu_jax.models import Lora
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import RESULTS, write_json
from ofmu_jax.runs.loop import LoopResult
from ofmu_jax.runs.models import Model, save_adapter, save_model
from ofmu_jax.runs.trainable import Trainable


def total_steps(loop: LoopConfig, size: int) -> int:
    """Steps of a run over `size` items."""
    if loop.steps is not None:
        return loop.steps
    return max(round(loop.epochs * steps_per_epoch(size, loop.batch_size)), 1)


def finish(
    folder: pathlib.Path,
    model: Model,
    target: Trainable,
    lora: Lora | None,
    result: LoopResult,
    steps: int,
) -> None:
    """Writes the model, its adapters if there are any, and the costs of a run."""
    trained = result.state.params
    full = trained
    if lora is not None:
        where = jax.tree.map(lambda x: x.sharding, model.params)
        full = jax.jit(target.full, out_shardings=where)(trained, target.frozen)
    if lora is not None:
        save_adapter(folder, model, trained, lora)
    write_json(
        folder / RESULTS,
        {
            "steps": steps,
            "seconds": result.seconds,
            "compile_seconds": result.compile_seconds,
            "seconds_are": "of the last process, if the run was resumed",
            "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
            "trained_parameters": sum(x.size for x in jax.tree.leaves(trained)),
        },
    )
    # A folder with a model is taken for a finished run.
    save_model(folder, model._replace(params=full))
