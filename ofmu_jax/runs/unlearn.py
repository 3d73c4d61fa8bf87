"""Unlearning: any method on any trained model."""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from ofmu_jax.data import MuseData, UnlearningData, paired_indices, take
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language, with_reference_logits
from ofmu_jax.methods import Method
from ofmu_jax.models import Lora, forward
from ofmu_jax.models.lora import target_paths
from ofmu_jax.runs.config import LoopConfig, UnlearnConfig
from ofmu_jax.runs.datasets import Request, encode_request, load_request
from ofmu_jax.runs.finish import finish, total_steps
from ofmu_jax.runs.folder import open_folder
from ofmu_jax.runs.loop import LoopResult, run_loop
from ofmu_jax.runs.models import Model, has_model, load_model
from ofmu_jax.runs.trainable import Trainable, TrainState, trainable


def unlearn(config: UnlearnConfig) -> pathlib.Path:
    """Unlearns as `ofmu unlearn` does; returns the run folder."""
    data = load_request(config.data)
    model = load_model(config.model, config.numerics, config.adapter)
    # Once more than needed, so that what does not fit is refused before anything is written.
    if config.lora.lora is not None:
        target_paths(model.params, config.lora.lora)
    _encode(data, model, config.method, config.loop, config.data.template)
    folder = open_folder(config.output, config)
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
    )
    finish(folder, model, target, config.lora.lora, result, steps)
    return folder


def unlearn_model(
    model: Model,
    data: UnlearningData | MuseData,
    method: Method,
    loop: LoopConfig,
    folder: pathlib.Path,
    *,
    template: str,
    resume: bool = False,
    lora: Lora | None = None,
) -> tuple[Trainable, LoopResult, int]:
    """Runs a method on a model in memory.

    Args:
      model: the model that knows the forget set; its parameters are left as they are.
      data: what to forget and what to retain.
      method: the method with its hyperparameters.
      loop: how long, in passes over the forget set; each forget item is paired with a retain item.
      folder: where metrics and checkpoints go.
      template: how a question becomes a prompt.
      resume: go on from the last checkpoint in the folder.
      lora: train these adapters instead of all parameters.

    Returns:
      What was trained, with the result of training as its `params`; the loop's result; and its
      number of steps.
    """
    apply_fn = functools.partial(forward, model.config)
    request = _encode(data, model, method, loop, template)
    sizes = len(request.forget.lengths), len(request.retain.lengths)
    answers = {"": request.forget}
    if request.alternative is not None:
        answers["alternative"] = request.alternative
    references = {
        name: _reference(apply_fn, model.params, rows)
        for name, rows in answers.items()
        if method.needs_reference
    }

    def batch(k: int) -> tuple[dict[str, Any], dict[str, Any]]:
        rows = paired_indices(*sizes, k, batch_size=loop.batch_size, seed=loop.seed)
        batches = {name: take(encoded, rows[0]) for name, encoded in answers.items()}
        for name, reference in references.items():
            batches[name]["reference_log_prob"] = reference[rows[0]]
        return {**batches.pop(""), **batches}, take(request.retain, rows[1])

    check_batches(*batch(0))
    steps = total_steps(loop, sizes[0])
    tx = method.transformation(steps)
    forget_loss, retain_loss = method.losses(apply_fn)

    target = trainable(model.params, lora, loop.seed)
    original = model.params if method.needs_reference_logits else None

    @functools.partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Any, original: Any, forget_batch: Any, retain_batch: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        if method.needs_reference_logits:
            # Once per step, however often the update rule evaluates the losses.
            forget_batch, retain_batch = (
                with_reference_logits(apply_fn, original, rows)
                for rows in (forget_batch, retain_batch)
            )
        updates, opt_state = tx.update(
            None,
            state.opt_state,
            state.params,
            forget_fn=lambda p: forget_loss(target.full(p, frozen), forget_batch),
            retain_fn=lambda p: retain_loss(target.full(p, frozen), retain_batch),
        )
        metrics = {
            **optax.tree.get(opt_state, "diagnostics")._asdict(),
            "notfinite_count": optax.tree.get(opt_state, "notfinite_count"),
            "total_notfinite": optax.tree.get(opt_state, "total_notfinite"),
        }
        return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics

    result = run_loop(
        step,
        TrainState(target.params, tx.init(target.params)),
        lambda k: (target.frozen, original, *batch(k)),
        steps,
        loop,
        folder,
        label=f"unlearn {method.name}",
        resume=resume,
    )
    return target._replace(params=result.state.params), result, steps


def _encode(
    data: UnlearningData | MuseData, model: Model, method: Method, loop: LoopConfig, template: str
) -> Request:
    limit = model.config.max_position_embeddings
    seed = loop.seed if method.needs_refusals else None
    return encode_request(data, model.tokenizer, template, limit, seed)


def check_batches(forget: Mapping[str, Any], retain: Mapping[str, Any]) -> None:
    """Checks that a forget and a retain batch can go through one model.

    Raises:
      InputError: if a key of the retain batch is missing in the forget batch, or an array differs
        in dtype or number of dimensions.
    """
    for key, value in retain.items():
        if key not in forget:
            raise InputError(
                f"the retain batch has {key!r}, the forget batch only {sorted(forget)}"
            )
        for what, a, b in (
            ("dtype", forget[key].dtype, value.dtype),
            ("dimensions", forget[key].ndim, value.ndim),
        ):
            if a != b:
                raise InputError(f"{key!r} has {what} {a} in forget batches but {b} in retain ones")


def _reference(apply_fn: Any, params: Any, encoded: Any) -> np.ndarray:
    """Log-probability of every answer under the model before unlearning, (N,) float32."""
    score = jax.jit(functools.partial(language.sequence_log_prob, apply_fn))
    size, width = len(encoded.lengths), 32
    batches = [
        score(params, take(encoded, index))
        for index in np.arange(math.ceil(size / width) * width).reshape(-1, width) % size
    ]
    return np.concatenate(jax.device_get(batches))[:size].astype(np.float32)
