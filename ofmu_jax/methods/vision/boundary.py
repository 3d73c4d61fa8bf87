"""Boundary unlearning: the forget rows are moved over their nearest border, or behind a new one.

Chen et al. 2023, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.losses.classification import classification_loss, item_losses
from ofmu_jax.methods.vision.base import StepMethod, Unlearned
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.problem import Classifier, Problem, Rows


@dataclasses.dataclass(frozen=True)
class BoundaryShrink(StepMethod):
    """BS: fine-tunes the forget rows to the nearest wrong class; epochs pass over the forget set.

    The nearest wrong class is the one that the original model prefers, but for the right one, after
    a step along the sign of the gradient (FGSM) in each pixel.
    """

    learning_rate: float = 5e-6
    """As of StepMethod."""
    bound: float = 0.1
    """Length of the step in a pixel, of a range from 0 to 1."""

    name: ClassVar[str] = "boundary_shrink"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("bound", self.bound > 0, "a number > 0")

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """SGD on the cross-entropy of the nearest wrong classes."""
        labels = nearest_wrong_classes(
            problem.classifier, problem.variables, problem.forget, self.bound, problem.batch_size
        )
        rows = problem.forget._replace(labels=labels)
        return _to_labels(self, problem, problem.classifier, problem.variables, rows, key)


@dataclasses.dataclass(frozen=True)
class BoundaryExpand(StepMethod):
    """BE: fine-tunes the forget rows to a class of their own, which is then dropped.

    Its epochs pass over the forget set.
    """

    learning_rate: float = 5e-6
    """As of StepMethod."""

    name: ClassVar[str] = "boundary_expand"

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """SGD on the cross-entropy of the shadow class."""
        classifier, count = problem.classifier, problem.classifier.num_classes
        expand_key, key = jax.random.split(key)
        wider, variables = classifier.with_classes(problem.variables, count + 1, expand_key)
        rows = problem.forget._replace(labels=jnp.full_like(problem.forget.labels, count))
        end = _to_labels(self, problem, wider, variables, rows, key)
        narrower = wider.with_classes(end.variables, count, expand_key)[1]
        return Unlearned(narrower, end.metrics)


def nearest_wrong_classes(
    classifier: Classifier, variables: Any, rows: Rows, bound: float | jax.Array, batch_size: int
) -> jax.Array:
    """Labels (N,) int32, as BoundaryShrink says."""

    def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, label = row
        batch = {"labels": label[None]}

        def loss(x: jax.Array) -> jax.Array:
            def logits(v: Any, images: jax.Array) -> jax.Array:
                return classifier.logits(v, images)

            return item_losses(logits, variables, batch | {"images": x[None]})[0]

        x = classifier.scaled(image)
        adversarial = jnp.clip(x + bound * jnp.sign(jax.grad(loss)(x)), 0, 1)
        logits = classifier.logits(variables, adversarial[None])[0]
        return jnp.argmax(logits.at[label].set(-jnp.inf)).astype(jnp.int32)

    return jax.lax.map(of_row, (rows.images, rows.labels), batch_size=batch_size)


def _to_labels(
    method: StepMethod,
    problem: Problem,
    classifier: Classifier,
    variables: Any,
    rows: Rows,
    key: jax.Array,
) -> Unlearned:
    """Fine-tunes on relabelled forget rows alone."""
    steps = method.steps(len(rows.labels), problem.batch_size)
    tx: optax.GradientTransformationExtraArgs = on_loss(method.optimizer(steps))
    return descend(
        method,
        classifier,
        variables,
        {"forget": rows},
        lambda classify, batches, k: {
            "loss_fn": lambda params: classification_loss(classify, params, batches["forget"])
        },
        tx,
        steps,
        problem.batch_size,
        key,
        estimate_on=problem.retain,
    )
