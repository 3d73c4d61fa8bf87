"""Logits and gradients of whole sets of rows, with running statistics and unaugmented."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.losses.classification import item_losses
from ofmu_jax.methods.vision.problem import Classifier, Rows


def total_loss(
    classifier: Classifier, statistics: Any, params: Any, rows: Rows, weights: jax.Array
) -> jax.Array:
    """The weighted sum of the rows' losses."""
    losses = item_losses(
        lambda p, images: classifier.logits(classifier.variables(p, statistics), images),
        params,
        {"images": classifier.scaled(rows.images), "labels": rows.labels},
    )
    return jnp.sum(weights * losses)


def sum_over_rows(
    function: Callable[[Rows, jax.Array], Any], rows: Rows, batch_size: int, like: Any
) -> Any:
    """The sum of `function` over batches of the rows.

    Args:
      function: of a batch and its weights (B,), 1 for rows and 0 for padding; a tree.
      rows: N of them.
      batch_size: B.
      like: a tree of the shapes that it returns.
    """
    total = len(rows.labels)
    count = -(-total // batch_size)
    index = (jnp.arange(count * batch_size) % total).reshape(count, batch_size)
    weights = (jnp.arange(count * batch_size) < total).astype(jnp.float32).reshape(index.shape)

    def add(sums: Any, inputs: Any) -> tuple[Any, None]:
        chosen, weight = inputs
        new = function(Rows(rows.images[chosen], rows.labels[chosen]), weight)
        return jax.tree.map(jnp.add, sums, new), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), (index, weights))[0]


def mean_gradient(classifier: Classifier, variables: Any, rows: Rows, batch_size: int) -> Any:
    """The gradient of the mean cross-entropy of the rows, a tree like the parameters."""

    def gradient(batch: Rows, weights: jax.Array) -> Any:
        return jax.grad(lambda p: total_loss(classifier, variables.statistics, p, batch, weights))(
            variables.params
        )

    total = sum_over_rows(gradient, rows, batch_size, variables.params)
    return jax.tree.map(lambda g: g / len(rows.labels), total)


def mean_squared_gradients(
    classifier: Classifier, variables: Any, rows: Rows, batch_size: int
) -> Any:
    """The diagonal of the empirical Fisher matrix: the mean of the rows' squared gradients."""

    def squares(batch: Rows, weights: jax.Array) -> Any:
        def own(image: jax.Array, label: jax.Array, weight: jax.Array) -> Any:
            row = Rows(image[None], label[None])
            return jax.grad(
                lambda p: total_loss(classifier, variables.statistics, p, row, weight[None])
            )(variables.params)

        gradients = jax.vmap(own)(batch.images, batch.labels, weights)
        return jax.tree.map(lambda g: jnp.sum(jnp.square(g), axis=0), gradients)

    total = sum_over_rows(squares, rows, batch_size, variables.params)
    return jax.tree.map(lambda g: g / len(rows.labels), total)


def all_logits(classifier: Classifier, variables: Any, rows: Rows, batch_size: int) -> jax.Array:
    """Logits (N, classes) of all rows."""
    return jax.lax.map(
        lambda image: classifier.logits(variables, classifier.scaled(image[None]))[0],
        rows.images,
        batch_size=batch_size,
    )
