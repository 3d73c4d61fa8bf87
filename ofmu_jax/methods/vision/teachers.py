"""Unlearning by distillation: away from a teacher on the forget set, or towards a bad one."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.losses.classification import classification_loss, teacher_divergence
from ofmu_jax.methods.vision.base import StepMethod, Unlearned, learning_rates
from ofmu_jax.methods.vision.descent import descend, on_loss
from ofmu_jax.methods.vision.problem import Problem, Rows


@dataclasses.dataclass(frozen=True)
class Scrub(StepMethod):
    """SCRUB: passes that raise KL(original || model) on forget, between passes that learn retain.

    Each epoch is a pass over the forget set, in the first `forget_epochs` of them, and then one
    over the retain set, with loss `alpha KL + gamma CE`. Kurmanji et al. 2023, "Towards Unbounded
    Machine Unlearning", arXiv 2302.09880. The optimiser is Adam, as in its program.
    """

    learning_rate: float = 5e-4
    """Of Adam."""
    epochs: float = 10.0
    """Passes over the retain set; a whole number."""
    forget_epochs: int = 2
    """How many of the epochs begin with a pass over the forget set."""
    alpha: float = 0.001
    """Weight of the divergence from the original model on the retain set."""
    gamma: float = 0.99
    """Weight of the cross-entropy there."""
    temperature: float = 4.0
    """Of both divergences."""

    name: ClassVar[str] = "scrub"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("epochs", float(self.epochs).is_integer(), "a whole number")
        self.require("alpha", self.alpha >= 0, "a number >= 0")
        self.require("gamma", self.gamma >= 0, "a number >= 0")
        self.require("temperature", self.temperature > 0, "a number > 0")
        self.require("forget_epochs", self.forget_epochs >= 0, "a number >= 0")

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam with weight decay."""
        return _adam(self, steps)

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """Adam on either loss, by turns."""
        classifier, original = problem.classifier, problem.variables
        passes = {
            name: math.ceil(len(rows.labels) / problem.batch_size)
            for name, rows in (("forget", problem.forget), ("retain", problem.retain))
        }
        turns = [
            raising
            for epoch in range(int(self.epochs))
            for raising, length in (
                (True, passes["forget"] if epoch < self.forget_epochs else 0),
                (False, passes["retain"]),
            )
            for _ in range(length)
        ]
        raises = jnp.array(turns)

        def losses(classify, batches, k):  # type: ignore[no-untyped-def]
            def divergence(params, batch):  # type: ignore[no-untyped-def]
                teacher = classifier.logits(original, batch["images"])
                taught = {**batch, "teacher_logits": teacher}
                return teacher_divergence(classify, params, taught, self.temperature)

            def raising(params):  # type: ignore[no-untyped-def]
                return -divergence(params, batches["forget"])

            def learning(params):  # type: ignore[no-untyped-def]
                retain = batches["retain"]
                own = self.gamma * classification_loss(classify, params, retain)
                return self.alpha * divergence(params, retain) + own

            return {"loss_fn": lambda params: jax.lax.cond(raises[k], raising, learning, params)}

        return descend(
            self,
            classifier,
            original,
            {"retain": problem.retain, "forget": problem.forget},
            losses,
            on_loss(self.optimizer(len(turns))),
            len(turns),
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )


@dataclasses.dataclass(frozen=True)
class BadTeacher(StepMethod):
    """Distils an untrained network on the forget rows, and the original model on the others.

    Chundawat et al. 2023, "Can Bad Teaching Induce Forgetting?", arXiv 2205.08096; with all retain
    rows (there, 30 % of them). Its epochs are passes over both sets.
    """

    learning_rate: float = 1e-4
    """Of Adam."""
    epochs: float = 1.0
    """Passes over both sets."""
    temperature: float = 1.0
    """Of the divergences."""

    name: ClassVar[str] = "bad_teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("temperature", self.temperature > 0, "a number > 0")

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam with weight decay."""
        return _adam(self, steps)

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """Adam on the divergence from the teacher of each row."""
        classifier, original = problem.classifier, problem.variables
        teacher_key, key = jax.random.split(key)
        untrained = classifier.initial(teacher_key)

        # In place of labels, which no teacher needs: whether the row is to be forgotten.
        def marked(rows: Rows, mark: int) -> Rows:
            return rows._replace(labels=jnp.full_like(rows.labels, mark))

        both = marked(problem.forget, 1) + marked(problem.retain, 0)
        steps = self.steps(len(both.labels), problem.batch_size)

        def losses(classify, batches, k):  # type: ignore[no-untyped-def]
            batch = batches["both"]
            bad = classifier.batch_logits(untrained.params, batch["images"])[0]
            good = classifier.logits(original, batch["images"])
            teacher = jnp.where(batch["labels"][:, None] == 1, bad, good)
            taught = {**batch, "teacher_logits": teacher}
            return {
                "loss_fn": lambda params: teacher_divergence(
                    classify, params, taught, self.temperature
                )
            }

        return descend(
            self,
            classifier,
            original,
            {"both": both},
            losses,
            on_loss(self.optimizer(steps)),
            steps,
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )


def _adam(method: StepMethod, steps: int) -> optax.GradientTransformation:
    rate = learning_rates(method.schedule, method.learning_rate, steps)
    return optax.chain(optax.add_decayed_weights(method.weight_decay), optax.adam(rate))
