"""The loop that all methods share which take steps: a scan, whose losses and rows they choose."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax import bilevel
from ofmu_jax.losses.classification import ClassifyFn
from ofmu_jax.methods.vision.base import StepMethod, Unlearned
from ofmu_jax.methods.vision.problem import Classifier, Rows

# Retain rows over which statistics are re-estimated, at most.
_ESTIMATED_BATCHES = 32

Batches = Mapping[str, Mapping[str, jax.Array]]
Objectives = Callable[[ClassifyFn, Batches, jax.Array], Mapping[str, bilevel.LossFn]]
"""From the model's function, a batch per set and the step's number to losses by name."""


class OnLossState(NamedTuple):
    """State of `on_loss`: the optimiser's, and the last loss."""

    opt_state: optax.OptState
    loss: jax.Array


class _State(NamedTuple):
    params: Any
    statistics: Any
    opt_state: Any


def on_loss(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimiser, fed with the gradient of `loss_fn`, which `update` takes; skips what is not
    finite."""

    def init(params: Any) -> OnLossState:
        return OnLossState(optimizer.init(params), jnp.full((), jnp.nan))

    def update(
        updates: Any, state: OnLossState, params: Any = None, *, loss_fn: bilevel.LossFn
    ) -> tuple[Any, OnLossState]:
        del updates
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        step, opt_state = optimizer.update(gradient, state.opt_state, params)
        return step, OnLossState(opt_state, loss.astype(jnp.float32))

    return bilevel.skip_nonfinite(optax.GradientTransformationExtraArgs(init, update))


def descend(
    method: StepMethod,
    classifier: Classifier,
    variables: Any,
    rows: Mapping[str, Rows],
    objectives: Objectives,
    tx: optax.GradientTransformationExtraArgs,
    steps: int,
    batch_size: int,
    key: jax.Array,
    *,
    estimate_on: Rows,
) -> Unlearned:
    """Takes steps, each on one augmented batch of every set.

    Args:
      method: for its choice of statistics.
      classifier: the model's functions.
      variables: where to start.
      rows: the sets by name; the running statistics follow the first one.
      objectives: the losses that `tx` asks for.
      tx: its `update` takes the losses as keywords.
      steps: how many.
      batch_size: images of each set and step.
      key: of the orders and the augmentation.
      estimate_on: rows to re-estimate statistics on.

    Returns:
      The model, and the metrics of every step: what the optimiser's state holds as `loss` or
      `diagnostics`, and `notfinite_count`.
    """
    batch_statistics = method.statistics != "frozen"

    def classify(params: Any, images: jax.Array) -> jax.Array:
        if batch_statistics:
            return classifier.batch_logits(params, images)[0]
        return classifier.logits(classifier.variables(params, variables.statistics), images)

    def batch_of(name: str, index: jax.Array, key: jax.Array) -> Mapping[str, jax.Array]:
        images = classifier.scaled(rows[name].images[index])
        return {
            "images": classifier.augmented(key, images),
            "labels": rows[name].labels[index],
        }

    def step(state: _State, inputs: Any) -> tuple[_State, dict[str, jax.Array]]:
        k, orders, key = inputs
        keys = jax.random.split(key, len(rows))
        batches = {
            name: batch_of(name, orders[name], own) for name, own in zip(rows, keys, strict=True)
        }
        losses = objectives(classify, batches, k)
        updates, opt_state = tx.update(None, state.opt_state, state.params, **losses)
        params = optax.apply_updates(state.params, updates)
        statistics = state.statistics
        if method.statistics == "train":
            first = next(iter(batches.values()))["images"]
            statistics = classifier.follow(statistics, classifier.batch_logits(params, first)[1])
        return _State(params, statistics, opt_state), _metrics(opt_state)

    order_key, view_key, estimate_key = jax.random.split(key, 3)
    order_keys = jax.random.split(order_key, len(rows))
    orders = {
        name: _orders(own, len(rows[name].labels), steps, batch_size)
        for name, own in zip(rows, order_keys, strict=True)
    }
    state = _State(variables.params, variables.statistics, tx.init(variables.params))
    inputs = (jnp.arange(steps), orders, jax.random.split(view_key, steps))
    state, metrics = jax.lax.scan(step, state, inputs)
    statistics = state.statistics
    if method.statistics == "re-estimated":
        statistics = re_estimated(classifier, state.params, estimate_on, batch_size, estimate_key)
    return Unlearned(classifier.variables(state.params, statistics), metrics)


def re_estimated(
    classifier: Classifier, params: Any, rows: Rows, batch_size: int, key: jax.Array
) -> Any:
    """Statistics over augmented batches of some of the rows, drawn anew."""
    total = len(rows.labels)
    count = min(_ESTIMATED_BATCHES, -(-total // batch_size))
    order_key, view_key = jax.random.split(key)
    index = _orders(order_key, total, count, batch_size)
    images = jax.vmap(classifier.augmented)(
        jax.random.split(view_key, count), classifier.scaled(rows.images[index])
    )
    return classifier.estimate(params, images)


def _orders(key: jax.Array, total: int, steps: int, batch_size: int) -> jax.Array:
    """(steps, batch_size) row numbers: pass after pass over all rows, each in an order of its
    own."""
    passes = -(-steps * batch_size // total)
    keys = jax.random.split(key, passes)
    order = jax.vmap(lambda k: jax.random.permutation(k, total))(keys).ravel()
    return order[: steps * batch_size].reshape(steps, batch_size)


def _metrics(opt_state: Any) -> dict[str, jax.Array]:
    count = optax.tree.get(opt_state, "notfinite_count")
    diagnostics = optax.tree.get(opt_state, "diagnostics")
    shown = (
        {"loss": optax.tree.get(opt_state, "loss")}
        if diagnostics is None
        else diagnostics._asdict()
    )
    return {**shown, "notfinite_count": count}
