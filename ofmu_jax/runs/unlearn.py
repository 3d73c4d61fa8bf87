"""Unlearning: any method on any trained model."""

import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ofmu_jax.data import take
from ofmu_jax.losses import language
from ofmu_jax.methods import Method
from ofmu_jax.models import Lora, Network, forward
from ofmu_jax.runs.agreement import check_same_run
from ofmu_jax.runs.answers import other_answers, with_alternatives
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import NOTHING, LoopConfig, UnlearnConfig, WatchConfig
from ofmu_jax.runs.datasets import Request, RequestData, encode_request, load_request
from ofmu_jax.runs.dry_run import dry_run, report
from ofmu_jax.runs.finish import finish, total_steps
from ofmu_jax.runs.folder import check_folder, open_run
from ofmu_jax.runs.loop import LoopResult, run_loop
from ofmu_jax.runs.models import Model, has_model, load_model
from ofmu_jax.runs.spread import model_shardings, spread
from ofmu_jax.runs.step import WHOLE, Feed, check_batches, unlearning_step
from ofmu_jax.runs.trainable import Trainable, trainable
from ofmu_jax.runs.unseen import unseen_items, unseen_quantiles
from ofmu_jax.scale import (
    check_rows,
    fetch,
    make_mesh,
    own_rows,
    place,
    replicated,
    use_mesh,
)


def unlearn(config: UnlearnConfig) -> pathlib.Path:
    """Unlearns as `ofmu unlearn` does; returns the run folder, which a dry run leaves alone."""
    if config.dry_run:
        print(report(dry_run(config)))
        return pathlib.Path(config.output.out)
    keep_programs(cache_folder())
    data = load_request(config.data)
    mesh = make_mesh(config.mesh)
    check_rows(mesh, config.loop.batch_size // config.microbatches, "a batch, or microbatch,")
    model = load_model(config.model, config.numerics, config.adapter, mesh)
    # Once more than needed, so that what does not fit is refused before anything is written.
    config.method.check_depth(model.config.num_hidden_layers)
    _check_trained(model, config.method, config.lora.lora)
    check_folder(config.output, config)
    data = with_alternatives(data, model, config.method, config.loop.seed, config.data.template)
    request = _encode(data, model, config.method, config.loop, config.data.template)
    inputs = check_same_run(
        config,
        model.params,
        forget=request.forget,
        retain=request.retain,
        alternative=request.alternative,
    )
    if config.method.needs_unseen:
        unseen_items(data, config.method.name)
    with open_run(config.output, config, inputs=inputs) as folder:
        if config.output.resume and has_model(folder):
            return folder
        target, result, steps = unlearn_model(
            model,
            data,
            config.method,
            config.loop,
            folder,
            template=config.data.template,
            resume=config.output.resume,
            lora=config.lora.lora,
            mesh=mesh,
            microbatches=config.microbatches,
            take=True,
            watch=config.watch,
        )
        finish(folder, model, target, config.lora.lora, result, steps)
    return folder


def unlearn_model(
    model: Model,
    data: RequestData,
    method: Method,
    loop: LoopConfig,
    folder: pathlib.Path,
    *,
    template: str,
    resume: bool = False,
    lora: Lora | None = None,
    mesh: Mesh | None = None,
    microbatches: int = 1,
    take: bool = False,
    watch: WatchConfig = NOTHING,
) -> tuple[Trainable, LoopResult, int]:
    """Runs a method on a model in memory.

    Args:
      model: the model that knows the forget set.
      data: what to forget and what to retain.
      method: the method with its hyperparameters.
      loop: how long, in passes over the forget set; each forget item is paired with a retain item.
      folder: where metrics and checkpoints go.
      template: how a question becomes a prompt.
      resume: go on from the last checkpoint in the folder.
      lora: train these adapters instead of all parameters.
      mesh: the devices to use; the first by default.
      microbatches: in how many parts a batch is taken.
      take: the model's parameters need not be left as they are, which saves a copy of them.
      watch: what is shown of the steps.

    Returns:
      What was trained, with the result of training as its `params`; the loop's result; and its
      number of steps.
    """
    mesh = mesh or make_mesh()
    own = own_rows(mesh, loop.batch_size)
    params = place(model.params, model_shardings(mesh, model.config))
    with use_mesh(mesh):
        feed = prepare(model._replace(params=params), data, method, loop, template)
        check_batches(*feed.batches(0, loop.batch_size, loop.seed))
        steps = total_steps(loop, len(feed.forget.lengths))
        tx = method.transformation(steps)
        where = spread(mesh, model.config, tx, lora)
        target = trainable(params, lora, loop.seed, take=take and not method.needs_original)
        original = params if method.needs_original else None
        step = unlearning_step(
            method,
            Network(model.config),
            tx,
            target.full,
            microbatches=microbatches,
            shardings=where.model,
        )

        def batch(k: int) -> tuple[Any, ...]:
            batches = feed.batches(k, loop.batch_size, loop.seed, own)
            placed = (where.place_rows(b, own, loop.batch_size, WHOLE) for b in batches)
            return (target.frozen, original, *placed)

        result = run_loop(
            jax.jit(step, donate_argnums=0, out_shardings=(where.state, replicated(mesh))),
            where.new_state(target.params, tx),
            batch,
            steps,
            loop,
            folder,
            label=f"unlearn {method.name}",
            resume=resume,
            watch=watch,
        )
    return target._replace(params=result.state.params), result, steps


def prepare(
    model: Model, data: RequestData, method: Method, loop: LoopConfig, template: str
) -> Feed:
    """The rows of a request and what a method needs to know about them.

    Args:
      model: the model that knows the forget set.
      data: what to forget and what to retain.
      method: the method, for what it needs.
      loop: its seed draws refusals and alternatives.
      template: how a question becomes a prompt.

    Raises:
      InputError: as `encode_request`, `with_alternatives`, `other_answers`, `unseen_quantiles` and
        the method's `check_depth` do.
    """
    method.check_depth(model.config.num_hidden_layers)
    data = with_alternatives(data, model, method, loop.seed, template)
    request = _encode(data, model, method, loop, template)
    answers = {"": request.forget}
    if request.alternative is not None:
        answers["alternative"] = request.alternative
    apply_fn = functools.partial(forward, model.config)
    references = {
        name: _reference(apply_fn, model.params, rows)
        for name, rows in answers.items()
        if method.needs_reference
    }
    unseen = unseen_quantiles(model, data, template, method.name) if method.needs_unseen else None
    return Feed(request.forget, request.retain, request.alternative, references, unseen)


def _encode(
    data: RequestData, model: Model, method: Method, loop: LoopConfig, template: str
) -> Request:
    limit = model.config.max_position_embeddings
    answers = other_answers(data, method, loop.seed)
    return encode_request(data, model.tokenizer, template, limit, answers)


def _check_trained(model: Model, method: Method, lora: Lora | None) -> None:
    """Raises InputError if the adapters or the method name parameters that the model lacks."""

    def init(params: Any) -> Any:
        return method.transformation(1).init(trainable(params, lora, 0).params)

    jax.eval_shape(init, model.params)


def _reference(apply_fn: Any, params: Any, encoded: Any) -> np.ndarray:
    """Log-probability of every answer under the model before unlearning, (N,) float32."""
    score = jax.jit(functools.partial(language.sequence_log_prob, apply_fn))
    size, width = len(encoded.lengths), 32
    batches = [
        score(params, take(encoded, index))
        for index in np.arange(math.ceil(size / width) * width).reshape(-1, width) % size
    ]
    return np.concatenate(fetch(batches))[:size].astype(np.float32)
