"""Losses of image classifiers; batches hold `images` (B, H, W, C) and `labels` (B,).

Where a teacher is asked for, batches hold `teacher_logits` (B, classes) too; losses are minimised,
and constant in the teacher.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.losses.matching import lack_of_loss

ClassifyFn: TypeAlias = Callable[[Any, jax.Array], jax.Array]
"""Maps parameters and images (B, H, W, C) to logits (B, classes)."""

ImageBatch: TypeAlias = Mapping[str, jax.Array]


def item_losses(classify: ClassifyFn, params: Any, batch: ImageBatch) -> jax.Array:
    """Cross-entropy of each image's label, (B,) in nats."""
    logits = classify(params, batch["images"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def classification_loss(classify: ClassifyFn, params: Any, batch: ImageBatch) -> jax.Array:
    """Mean cross-entropy of the labels.

    Args:
      classify: maps parameters and images to logits.
      params: the model's parameters.
      batch: `images` and `labels`.

    Returns:
      A scalar in nats.

    >>> batch = {"images": jnp.zeros((2, 1, 1, 1)), "labels": jnp.array([0, 3])}
    >>> uniform = lambda params, images: jnp.zeros((2, 4))
    >>> round(float(classification_loss(uniform, {}, batch) / jnp.log(4)), 6)
    1.0
    """
    return jnp.mean(item_losses(classify, params, batch))


def teacher_divergence(
    classify: ClassifyFn, params: Any, batch: ImageBatch, temperature: float = 1.0
) -> jax.Array:
    """`T^2 KL(teacher || model)` of the class distributions at temperature T (Hinton et al. 2015).

    Args:
      classify: maps parameters and images to logits.
      params: the model's parameters.
      batch: `images`, and `teacher_logits` (B, classes).
      temperature: T, by which both logits are divided.

    Returns:
      A scalar >= 0 in nats, the mean over the images.
    """
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(batch["teacher_logits"]) / temperature)
    student = jax.nn.log_softmax(classify(params, batch["images"]) / temperature)
    divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * jnp.mean(divergence)


def matching_loss(classify: ClassifyFn, params: Any, batch: ImageBatch) -> jax.Array:
    """How far the images' losses are below those of images that were never seen.

    As `matching.quantile_matching`, an item being an image.

    Args:
      classify: maps parameters and images to logits.
      params: the model's parameters.
      batch: `images`, `labels`, and `unseen_quantiles` (Q,), the quantile function of the losses
        of unseen images.

    Returns:
      A scalar >= 0 in squared nats, with no gradient where the losses are no lower than those.
    """
    return lack_of_loss(item_losses(classify, params, batch), batch["unseen_quantiles"])
