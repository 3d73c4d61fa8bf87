"""Training the forget rows to random labels: all weights, or SalUn's salient ones."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision.base import StepMethod, Unlearned
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.problem import Problem, Rows
from ofmu_jax.methods.vision.whole_sets import mean_gradient


def with_random_labels(rows: Rows, num_classes: int, key: jax.Array) -> Rows:
    """The rows with labels drawn evenly from all classes, the right one among them."""
    return rows._replace(
        labels=jax.random.randint(key, rows.labels.shape, 0, num_classes, jnp.int32)
    )


@dataclasses.dataclass(frozen=True)
class RandomLabels(StepMethod):
    """RL: fine-tunes on both sets, the forget rows with labels drawn at random once.

    Golatkar et al. 2020, "Eternal Sunshine of the Spotless Net", arXiv 1911.04933. Its epochs are
    passes over both sets.
    """

    learning_rate: float = 0.013
    """As of StepMethod."""

    name: ClassVar[str] = "random_labels"

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """SGD on the cross-entropy of both sets as one."""
        label_key, key = jax.random.split(key)
        relabelled = with_random_labels(problem.forget, problem.classifier.num_classes, label_key)
        both = relabelled + problem.retain
        steps = self.steps(len(both.labels), problem.batch_size)
        return descend(
            self,
            problem.classifier,
            problem.variables,
            {"both": both},
            lambda classify, batches, k: {
                "loss_fn": lambda params: classification_loss(classify, params, batches["both"])
            },
            on_loss(optax.chain(self.optimizer(steps), self.restriction(problem))),
            steps,
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )

    def restriction(self, problem: Problem) -> optax.GradientTransformation:
        """What becomes of the updates; nothing here."""
        del problem
        return optax.identity()


@dataclasses.dataclass(frozen=True)
class SalUn(RandomLabels):
    """Random labels, where only the weights move that the forget loss is most sensitive to.

    Fan et al. 2024, "SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency",
    arXiv 2310.12508, equations 3 to 5. The weights outside of the mask stay as they are, as in its
    equation 4; weight decay does not move them either.
    """

    share: float = 0.5
    """Share of the weights that may move."""

    name: ClassVar[str] = "salun"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("share", 0 < self.share <= 1, "a number in (0, 1]")

    def restriction(self, problem: Problem) -> optax.GradientTransformation:
        """Updates outside of the mask become 0."""
        mask = saliency_mask(problem, self.share)

        def restrict(updates: Any, params: Any = None) -> Any:
            del params
            return jax.tree.map(jnp.multiply, updates, mask)

        return optax.stateless(restrict)


def saliency_mask(problem: Problem, share: float | jax.Array) -> Any:
    """1 where the mean gradient of the forget loss is among the largest, 0 elsewhere.

    Args:
      problem: the gradient is taken at its model, with running statistics.
      share: of the weights of the whole model together; those that tie with the last one are in.

    Returns:
      A tree like the parameters.
    """
    gradient = mean_gradient(
        problem.classifier, problem.variables, problem.forget, problem.batch_size
    )
    sizes = jax.tree.map(jnp.abs, gradient)
    flat = jnp.sort(jnp.concatenate([x.ravel() for x in jax.tree.leaves(sizes)]))
    first = jnp.clip(jnp.round((1 - share) * flat.size).astype(int), 0, flat.size - 1)
    return jax.tree.map(lambda x: (x >= flat[first]).astype(x.dtype), sizes)
