"""Training: the original model and the retrained one, from scratch or from a checkpoint."""

import functools
import pathlib
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from ofmu_jax import bilevel
from ofmu_jax.data import train_tokenizer, training_batch
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.models import PRESETS, forward, init_params, preset
from ofmu_jax.runs.agreement import check_same_run
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import TrainConfig
from ofmu_jax.runs.datasets import TrainingData, fitted
from ofmu_jax.runs.finish import finish, total_steps
from ofmu_jax.runs.folder import open_run
from ofmu_jax.runs.loop import run_loop
from ofmu_jax.runs.models import Model, has_model, load_model
from ofmu_jax.runs.spread import model_shardings, spread
from ofmu_jax.runs.trainable import TrainState, trainable
from ofmu_jax.scale import make_mesh, own_rows, replicated, use_mesh


def train(config: TrainConfig) -> pathlib.Path:
    """Trains a model as `ofmu train` does; returns the run folder."""
    check(config)
    keep_programs(cache_folder())
    data = TrainingData(config)
    mesh = make_mesh(config.mesh)
    own = own_rows(mesh, config.loop.batch_size)
    model = new_model(config, data, mesh) if config.model in PRESETS else _load(config, mesh)
    limit = model.config.max_position_embeddings
    encoded = fitted(data.encode(model.tokenizer, limit), limit)
    inputs = check_same_run(config, model.params, training=encoded)
    target = trainable(model.params, config.lora.lora, config.loop.seed, take=True)

    loop = config.loop
    batches = total_steps(loop, len(encoded.tokens))
    if config.accumulate > batches:
        raise InputError(
            f"accumulate is {config.accumulate}, and the run has {batches} batches: not one update "
            f"would be made; expected at most {batches}"
        )
    tx = optimizer(config, batches // config.accumulate)
    where = spread(mesh, model.config, tx, config.lora.lora)
    loss = functools.partial(language.cross_entropy, functools.partial(forward, model.config))

    def constrained(p: Any, frozen: Any) -> Any:
        return jax.lax.with_sharding_constraint(target.full(p, frozen), where.model)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(where.state, replicated(mesh)))
    def step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        value, gradient = jax.value_and_grad(lambda p: loss(constrained(p, frozen), batch))(
            state.params
        )
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradient),
            "notfinite_count": optax.tree.get(opt_state, "notfinite_count"),
        }
        return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics

    def batch(k: int) -> tuple[Any, Any]:
        size = loop.batch_size
        rows = training_batch(encoded, k, size, loop.seed, config.group_by_length, own)
        return target.frozen, where.place_rows(rows, own, size)

    with open_run(config.output, config, inputs=inputs) as folder:
        if config.output.resume and has_model(folder):
            return folder
        with use_mesh(mesh):
            result = run_loop(
                step,
                where.new_state(target.params, tx),
                batch,
                batches,
                loop,
                folder,
                label=f"train {config.split}",
                resume=config.output.resume,
                watch=config.watch,
            )
        finish(folder, model, target, config.lora.lora, result, batches)
    return folder


def check(config: TrainConfig) -> None:
    """Checks what the types of a config do not.

    Raises:
      InputError: a number is out of its range.
    """
    for name, valid, expected in (
        ("accumulate", config.accumulate >= 1, "at least 1"),
        ("warmup", 0 <= config.warmup < 1, "in [0, 1)"),
        ("adam_b2", 0 <= config.adam_b2 < 1, "in [0, 1)"),
        ("sequence_length", config.sequence_length >= 2, "at least 2"),
    ):
        if not valid:
            raise InputError(f"{name} is {getattr(config, name)}; expected {expected}")


def _load(config: TrainConfig, mesh: Mesh) -> Model:
    if "/" not in config.model and not pathlib.Path(config.model).exists():
        raise InputError(
            f"model {config.model!r} is neither a preset ({', '.join(PRESETS)}) nor a folder"
        )
    return load_model(config.model, config.numerics, config.adapter, mesh)


def new_model(config: TrainConfig, data: TrainingData, mesh: Mesh | None = None) -> Model:
    """A model of a preset shape with a tokenizer of its own, before training."""
    if config.adapter is not None:
        raise InputError(f"adapter {config.adapter}: a new model has none; name one to start from")
    numerics = config.numerics
    tokenizer = train_tokenizer(data.texts(), config.vocab_size)
    shape = preset(
        config.model,
        tokenizer.vocab_size,
        data.longest(tokenizer),
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        remat=numerics.remat,
    )
    mesh = mesh or make_mesh()
    init = jax.jit(
        functools.partial(init_params, shape), out_shardings=model_shardings(mesh, shape)
    )
    return Model(shape, init(jax.random.key(config.loop.seed)), tokenizer)


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping and a schedule; an update that is not finite is never applied."""
    peak, warmup = config.learning_rate, round(config.warmup * steps)
    decay = max(steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, decay),
        "linear": optax.linear_schedule(peak, 0.0, decay),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    rising = optax.linear_schedule(0.0, peak, warmup)
    schedule = optax.join_schedules([rising, after], [warmup]) if warmup else after
    tx: optax.GradientTransformation = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=config.adam_b2, weight_decay=config.weight_decay),
    )
    if config.accumulate > 1:
        tx = optax.MultiSteps(tx, config.accumulate).gradient_transformation()
    return bilevel.skip_nonfinite(tx, incoming=True)
