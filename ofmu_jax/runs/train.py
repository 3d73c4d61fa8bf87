"""Training: the original model and the retrained one."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import optax

from ofmu_jax import bilevel
from ofmu_jax.data import (
    RETAIN_OF,
    QAItem,
    UnlearningData,
    check_unlearning_data,
    encode_qa,
    load_tofu,
    make_authors,
    steps_per_epoch,
    train_tokenizer,
    training_batch,
)
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.models import forward, init_params, preset
from ofmu_jax.runs.config import DataConfig, LoopConfig, TrainConfig
from ofmu_jax.runs.folder import RESULTS, open_folder, write_json
from ofmu_jax.runs.loop import LoopResult, run_loop
from ofmu_jax.runs.models import Model, has_model, load_model, save_model


class TrainState(NamedTuple):
    """What a step maps to itself and a checkpoint holds."""

    params: Any
    opt_state: Any


def load_data(config: DataConfig) -> UnlearningData:
    """The data that a config names, checked.

    Raises:
      InputError: as `load_tofu`, `make_authors` and `check_unlearning_data` do.
    """
    if config.dataset == "authors":
        data = make_authors(
            seed=config.data_seed, authors=config.authors, forget_authors=config.forget_authors
        )
    elif config.data_dir is None:
        raise InputError("dataset tofu needs --data-dir, the folder of its files")
    else:
        data = load_tofu(config.data_dir, config.forget, config.retain)
    check_unlearning_data(data)
    return data


def training_items(data: UnlearningData, config: TrainConfig) -> tuple[QAItem, ...]:
    """What a split holds.

    Raises:
      InputError: for a split that is neither full nor the retain split that belongs to the task.
    """
    retain = ["retain"]
    if config.data.dataset == "tofu":
        retain.append(config.data.retain or RETAIN_OF[config.data.forget])
    if config.split == "full":
        return data.full
    if config.split in retain:
        return data.without_forget
    raise InputError(
        f"split {config.split!r}: expected one of full, {', '.join(retain)} (a retain split that "
        "belongs to another forget split needs --forget)"
    )


def train(config: TrainConfig) -> pathlib.Path:
    """Trains a model as `ofmu train` does; returns the run folder."""
    data = load_data(config.data)
    items = training_items(data, config)
    tokenizer = train_tokenizer(
        (text for item in data.full for text in (item.question, item.answer)), config.vocab_size
    )
    # One length for both splits, so that the original and the retrained model have one shape.
    length = encode_qa(tokenizer, data.full, config.data.template).tokens.shape[1]
    encoded = encode_qa(tokenizer, items, config.data.template, length)
    shape = preset(config.model, tokenizer.get_vocab_size(), max_positions(data, tokenizer, config))
    folder = open_folder(config.output, config)
    if config.output.resume and has_model(folder):
        return folder

    loop = config.loop
    steps = total_steps(loop, len(items))
    tx = bilevel.skip_nonfinite(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(
                optax.warmup_cosine_decay_schedule(
                    0.0, config.learning_rate, max(steps // 20, 1), max(steps, 2)
                ),
                weight_decay=config.weight_decay,
            ),
        )
    )
    loss = functools.partial(language.cross_entropy, functools.partial(forward, shape))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        value, gradient = jax.value_and_grad(loss)(state.params, batch)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradient),
            "notfinite_count": opt_state.notfinite_count,
        }
        return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics

    params = init_params(shape, jax.random.key(loop.seed))
    result = run_loop(
        step,
        TrainState(params, tx.init(params)),
        lambda k: (training_batch(encoded, k, loop.batch_size, loop.seed),),
        steps,
        loop,
        folder,
        label=f"train {config.split}",
        resume=config.output.resume,
    )
    finish(folder, Model(shape, result.state.params, tokenizer), result, steps)
    return folder


def max_positions(data: UnlearningData, tokenizer: Any, config: TrainConfig) -> int:
    """Longest text that the model must read: an item with any of its answers, and as much again.

    The room is for generated answers, which may be longer than the true one.
    """

    def variants(item: QAItem) -> list[tuple[str, str]]:
        answers = [item.answer, item.paraphrased_answer or "", *item.perturbed_answer]
        return [(item.question, answer) for answer in answers if answer]

    sets = (data.full, data.forget_eval, data.retain_eval, data.real_authors, data.world_facts)
    pairs = [pair for items in sets for item in items for pair in variants(item)]
    return 2 * encode_qa(tokenizer, pairs, config.data.template).tokens.shape[1]


def total_steps(loop: LoopConfig, size: int) -> int:
    """Steps of a run over `size` items."""
    return max(round(loop.epochs * steps_per_epoch(size, loop.batch_size)), 1)


def finish(folder: pathlib.Path, model: Model, result: LoopResult, steps: int) -> None:
    """Writes the model and the costs of a run."""
    save_model(folder, model)
    write_json(
        folder / RESULTS,
        {
            "steps": steps,
            "seconds": result.seconds,
            "compile_seconds": result.compile_seconds,
            "seconds_are": "of the last process, if the run was resumed",
            "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        },
    )


__all__ = ["TrainState", "finish", "load_data", "load_model", "total_steps", "train"]
