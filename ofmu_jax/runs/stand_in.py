"""One step of a method on a small random model of the family it is meant for."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ofmu_jax.data import Encoded
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.losses.matching import loss_quantiles
from ofmu_jax.methods import Method
from ofmu_jax.models import DecoderConfig, Lora, Network, forward, init_params
from ofmu_jax.models.rope import LongRope
from ofmu_jax.runs.datasets import Request
from ofmu_jax.runs.step import Feed, unlearning_step
from ofmu_jax.runs.trainable import TrainState, trainable

_HIDDEN, _HEADS, _HEAD, _VOCABULARY, _LAYERS = 64, 4, 16, 256, 2
# Of a batch; the others would change neither shapes within a row nor what is computed of it.
_ROWS = 4


class Trial(NamedTuple):
    """What a step of a stand-in gave.

    Attributes:
      config: the stand-in's shape.
      rows: rows of each batch.
      metrics: what the step shows of itself.
      update: norm of what it added to the trained parameters.
    """

    config: DecoderConfig
    rows: int
    metrics: dict[str, float]
    update: float


def shrunk(config: DecoderConfig, depth: int) -> DecoderConfig:
    """A narrow and shallow decoder with all peculiarities of a given one.

    Args:
      config: the decoder.
      depth: how many of its layers are kept, the first ones.

    >>> wide = DecoderConfig(32000, 4096, 11008, 32, 32, 8)
    >>> small = shrunk(wide, 2)
    >>> small.hidden_size, small.num_attention_heads, small.num_key_value_heads
    (64, 4, 1)
    """
    heads = min(_HEADS, config.num_attention_heads)
    groups = heads * config.num_key_value_heads // config.num_attention_heads
    head = min(_HEAD, config.head_size)
    turning = int(head * config.partial_rotary_factor)
    turning = max(turning - turning % 2, 2)
    scaling = config.rope_scaling
    if isinstance(scaling, LongRope):
        short, long = (x[: turning // 2] for x in (scaling.short_factor, scaling.long_factor))
        scaling = dataclasses.replace(scaling, short_factor=short, long_factor=long)
    windows = config.layer_windows
    return dataclasses.replace(
        config,
        vocab_size=min(_VOCABULARY, config.vocab_size),
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=max(groups, 1),
        head_dim=head,
        partial_rotary_factor=turning / head,
        rope_scaling=scaling,
        layer_windows=None if windows is None else windows[:depth],
    )


def depth_needed(method: Method, depth: int) -> int:
    """The fewest layers, two at least, on which a method can run that runs on `depth` layers."""
    for layers in range(min(_LAYERS, depth), depth):
        try:
            method.check_depth(layers)
        except InputError:
            continue
        return layers
    return depth


def try_step(
    config: DecoderConfig,
    method: Method,
    request: Request,
    *,
    batch_size: int,
    steps: int,
    lora: Lora | None,
    seed: int,
) -> Trial:
    """Takes the first step of a method on a stand-in, with random weights and tokens.

    Args:
      config: the decoder that is stood in for.
      method: the method with its hyperparameters.
      request: rows whose lengths are kept, while their tokens are replaced.
      batch_size: rows of a batch in the run; the stand-in's has four at most.
      steps: of the whole run, for the schedules.
      lora: train adapters instead of all parameters.
      seed: of weights, tokens and adapters.

    Raises:
      InputError: a loss or the update is not finite.
    """
    small = shrunk(config, depth_needed(method, config.num_hidden_layers))
    params = init_params(small, jax.random.key(seed))
    rows = min(batch_size, _ROWS)
    feed = _feed(small, params, method, _random_tokens(request, small.vocab_size, rows, seed))
    target = trainable(params, lora, seed)
    before = jax.tree.map(np.asarray, target.params)
    tx = method.transformation(steps)
    step = jax.jit(unlearning_step(method, Network(small), tx, target.full), donate_argnums=0)
    original = params if method.needs_original else None
    state, shown = step(
        TrainState(target.params, tx.init(target.params)),
        target.frozen,
        original,
        *feed.batches(0, rows, seed),
    )
    metrics = {name: float(value) for name, value in jax.device_get(shown).items()}
    difference = jax.tree.map(lambda new, old: np.float64(new) - old, state.params, before)
    trial = Trial(small, rows, metrics, float(optax.tree.norm(difference)))
    # A loss without weight is not evaluated and shown as NaN; one that is spoils the update.
    sound = not metrics["notfinite_count"] and np.isfinite(trial.update)
    if not (sound and np.isfinite(metrics["forget_loss"])):
        losses = ", ".join(f"{k}={v:g}" for k, v in metrics.items() if "loss" in k)
        raise InputError(
            f"method {method.name}: the first step of a stand-in with {small.num_hidden_layers} "
            f"layers is not finite ({losses}); expected numbers: lower the learning rates, or take "
            "another --dtype"
        )
    return trial


def _random_tokens(request: Request, vocabulary: int, rows: int, seed: int) -> Request:
    generator = np.random.default_rng(seed)

    def replaced(encoded: Encoded | None) -> Encoded | None:
        if encoded is None:
            return None
        encoded = Encoded(*(part[-rows:] for part in encoded))
        shape = encoded.tokens.shape
        return encoded._replace(tokens=generator.integers(vocabulary, size=shape, dtype=np.int32))

    forget, retain, alternative = map(replaced, request)
    assert forget is not None and retain is not None
    return Request(forget, retain, alternative)


def _feed(config: DecoderConfig, params: Any, method: Method, request: Request) -> Feed:
    """The rows with what the method needs to know about them."""
    apply_fn = functools.partial(forward, config)
    score = jax.jit(functools.partial(language.sequence_log_prob, apply_fn))

    def log_prob(rows: Encoded) -> np.ndarray:
        batch = {"tokens": rows.tokens, "scored": rows.scored}
        return np.asarray(score(params, batch), np.float32)

    answers = {"": request.forget, "alternative": request.alternative}
    references = {
        name: log_prob(rows)
        for name, rows in answers.items()
        if method.needs_reference and rows is not None
    }
    unseen = None
    if method.needs_unseen:
        tokens = jnp.asarray(request.retain.tokens)
        log_probs = language.token_log_probs(apply_fn(params, tokens), tokens)
        losses = -np.asarray(log_probs)[request.retain.scored[:, 1:]]
        unseen = loss_quantiles(losses)
    return Feed(request.forget, request.retain, request.alternative, references, unseen)
