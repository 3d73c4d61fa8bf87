"""Gradient ascent on the forget set alone (Thudi et al. 2021, arXiv 2109.13398)."""

import dataclasses
from typing import ClassVar

import jax

from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision.base import StepMethod, Unlearned
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.problem import Problem


@dataclasses.dataclass(frozen=True)
class GradientAscent(StepMethod):
    """GA: minimises `-CE(forget)`; its epochs are passes over the forget set."""

    learning_rate: float = 1e-4
    """As of StepMethod."""
    epochs: float = 5.0
    """Passes over the forget set."""

    name: ClassVar[str] = "gradient_ascent"

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """SGD on the negated forget loss."""
        steps = self.steps(len(problem.forget.labels), problem.batch_size)
        return descend(
            self,
            problem.classifier,
            problem.variables,
            {"forget": problem.forget},
            lambda classify, batches, k: {
                "loss_fn": lambda params: -classification_loss(classify, params, batches["forget"])
            },
            on_loss(self.optimizer(steps)),
            steps,
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )
