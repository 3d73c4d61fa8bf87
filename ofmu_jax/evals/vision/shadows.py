"""Many small models at once: the shadow models of a membership attack."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ofmu_jax.errors import InputError
from ofmu_jax.evals.batching import padded_batches

Init: TypeAlias = Callable[[jax.Array], Any]
Loss: TypeAlias = Callable[[Any, jax.Array, jax.Array], jax.Array]


def train_shadows(
    init: Init,
    loss: Loss,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    membership: np.ndarray,
    *,
    optimiser: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    population: int = 16,
) -> Any:
    """Trains M models, each on its own share of the images, several at a time.

    A group of models is trained by one program, a scan over steps of a `jax.vmap` over models; all
    groups have the same shapes, so it is compiled once. The models do not depend on how they are
    grouped, up to rounding.

    In every epoch a model goes through its images in a new order. An epoch has as many steps as the
    model with the most images needs; where a model's images end before that, or in the middle of a
    batch, its order starts again. In an epoch a model sees none of its images more than once more
    often than another.

    Args:
      init: from a key to a model's parameters.
      loss: of parameters, images (B, ...) and labels (B,), a scalar. There is no state, so models
        with running statistics need another loop.
      images: (N, ...), all of them held on the device; `loss` gets them in this type.
      labels: (N, ...).
      membership: (M, N) bool, which images each model is trained on, at least one for each.
      optimiser: any optax transformation; its schedules count steps.
      epochs: through a model's images.
      batch_size: images per step and model, B.
      key: model i uses the i-th of M keys split from it.
      population: how many models are trained at once at most; memory grows with it, and the last
        group is filled up with a repeated model. 1 trains them one after another, which on a CPU is
        the faster for convolutions (`benchmarks/shadow_models.py`).

    Returns:
      Parameters with a leading axis of M models.

    Raises:
      InputError: shapes do not match, a model has no images, or a number is less than 1.
    """
    membership = np.asarray(membership)
    _check(images, labels, membership)
    numbers = {"epochs": epochs, "batch_size": batch_size, "population": population}
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}; expected at least 1")
    counts = membership.sum(axis=1)
    # A stable sort of "not a member" has the members first, in the order of the images.
    members = np.argsort(~membership, axis=1, kind="stable")[:, : counts.max()]
    keys = jax.random.split(key, len(membership))
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    groups = -(-len(membership) // population)
    trained = [
        _train(
            keys[rows],
            members[rows].astype(np.int32),
            counts[rows].astype(np.int32),
            images,
            labels,
            init=init,
            loss=loss,
            optimiser=optimiser,
            epochs=epochs,
            batch_size=batch_size,
        )
        for rows in padded_batches(
            len(membership), -(-len(membership) // groups), "training shadow models"
        )
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: len(membership)], *trained)


def _check(images: Any, labels: Any, membership: np.ndarray) -> None:
    if membership.ndim != 2 or not len(membership) or membership.dtype != bool:
        raise InputError(
            f"membership has shape {membership.shape} and type {membership.dtype}; "
            "expected (models, images), at least one model, and bool"
        )
    if not len(images) == len(labels) == membership.shape[1]:
        raise InputError(
            f"{len(images)} images and {len(labels)} labels to train shadow models on; "
            f"expected {membership.shape[1]} of both, the second axis of membership"
        )
    empty = np.flatnonzero(~membership.any(axis=1))
    if empty.size:
        raise InputError(
            f"membership gives no images to model {empty[0]}; expected at least one for each"
        )


@functools.partial(jax.jit, static_argnames=("init", "loss", "optimiser", "epochs", "batch_size"))
def _train(
    keys: jax.Array,
    members: jax.Array,
    counts: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    init: Init,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
) -> Any:
    size = members.shape[1]
    steps = -(-size // batch_size)

    def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        gradient = jax.grad(loss)(params, images[rows], labels[rows])
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    def train(key: jax.Array, members: jax.Array, count: jax.Array) -> Any:
        def epoch(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
            draws = jax.random.uniform(key, (size,))
            # What fills up the row of members comes last and is not reached.
            order = jnp.argsort(jnp.where(jnp.arange(size) < count, draws, jnp.inf))
            places = jnp.arange(steps * batch_size) % count
            rows = members[order[places]].reshape(steps, batch_size)
            return jax.lax.scan(step, carry, rows)[0], None

        init_key, order_key = jax.random.split(key)
        params = init(init_key)
        start = (params, optimiser.init(params))
        return jax.lax.scan(epoch, start, jax.random.split(order_key, epochs))[0][0]

    return jax.vmap(train)(keys, members, counts)
