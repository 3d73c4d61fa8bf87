"""Fine-tuning on the retain set, plain and with a decaying l1 penalty; and retraining."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ofmu_jax.losses.classification import classification_loss
from ofmu_jax.methods.vision.base import StepMethod, Unlearned
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.problem import Problem


@dataclasses.dataclass(frozen=True)
class FineTune(StepMethod):
    """FT: goes on training on the retain set alone, and lets the rest fade.

    Warnecke et al. 2021, "Machine Unlearning of Features and Labels", arXiv 2108.11577; Golatkar et
    al. 2020, "Eternal Sunshine of the Spotless Net", arXiv 1911.04933.
    """

    name: ClassVar[str] = "fine_tune"

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """SGD on the retain loss and on what `penalty` adds."""
        return self._train(problem, problem.variables, key)

    def penalty(self, params: object, progress: jax.Array) -> jax.Array | float:
        """What is added to the loss when a share `progress` of the steps is done."""
        del params, progress
        return 0.0

    def _train(self, problem: Problem, variables: object, key: jax.Array) -> Unlearned:
        steps = self.steps(len(problem.retain.labels), problem.batch_size)
        return descend(
            self,
            problem.classifier,
            variables,
            {"retain": problem.retain},
            lambda classify, batches, k: {
                "loss_fn": lambda params: (
                    classification_loss(classify, params, batches["retain"])
                    + self.penalty(params, k / steps)
                )
            },
            on_loss(self.optimizer(steps)),
            steps,
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )


@dataclasses.dataclass(frozen=True)
class Retrain(FineTune):
    """Trains a new model on the retain set: the yardstick, and the method for those who can.

    The defaults are the recipe of SalUn (Fan et al. 2024, arXiv 2310.12508), whose 182 epochs end
    with a tenth and a hundredth of the learning rate from epochs 91 and 136 on.
    """

    learning_rate: float = 0.1
    """As of FineTune."""
    epochs: float = 182.0
    """As of FineTune."""
    schedule: str = "step"
    """As of FineTune."""

    name: ClassVar[str] = "retrain"

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """From parameters drawn anew."""
        init_key, key = jax.random.split(key)
        return self._train(problem, problem.classifier.initial(init_key), key)


@dataclasses.dataclass(frozen=True)
class L1Sparse(FineTune):
    """Fine-tuning with `alpha (1 - t) |params|_1`, t the share of the steps that are done.

    Jia et al. 2023, "Model Sparsity Can Simplify Machine Unlearning", arXiv 2304.04934.
    """

    alpha: float = 5e-4
    """Weight of the penalty at the start."""

    name: ClassVar[str] = "l1_sparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", self.alpha >= 0, "a number >= 0")

    def penalty(self, params: object, progress: jax.Array) -> jax.Array:
        """Of all parameters."""
        size = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(params))
        return self.alpha * (1 - progress) * jnp.asarray(size)
