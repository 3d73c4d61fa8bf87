"""Methods of two objectives: a combination of two gradients, or OFMU's two loops."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ofmu_jax import bilevel
from ofmu_jax.aggregators import UPDATE_RULES, scale_by_fitted_rate
from ofmu_jax.losses import classification
from ofmu_jax.losses.classification import ClassifyFn, ImageBatch
from ofmu_jax.losses.matching import QUANTILES
from ofmu_jax.methods.scalarised import aggregated
from ofmu_jax.methods.two_loop import TwoLoop
from ofmu_jax.methods.vision.base import StepMethod, Unlearned, learning_rates
from ofmu_jax.methods.vision.descent import descend
from ofmu_jax.methods.vision.problem import Problem
from ofmu_jax.methods.vision.relabelling import with_random_labels
from ofmu_jax.methods.vision.whole_sets import all_logits


def _ascent(classify: ClassifyFn, params: Any, batch: ImageBatch) -> jax.Array:
    return -classification.classification_loss(classify, params, batch)


IMAGE_FORGET_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": _ascent,
    "random_labels": classification.classification_loss,
    "matched": classification.matching_loss,
}
"""Losses to be minimised on the forget rows, by name. With random_labels the rows' labels are drawn
at random once; matched needs the losses of unseen rows."""


@dataclasses.dataclass(frozen=True)
class TwoObjectives(StepMethod):
    """A forget and a retain loss, and a transformation that is given both."""

    forget_loss: str = "cross_entropy"
    """Minimised on the forget rows: cross_entropy, which is negated; random_labels, the
    cross-entropy of labels drawn at random; or matched, whose least value is reached where the
    losses are distributed as those of unseen rows."""

    forget_sign: ClassVar[int] = 1
    """-1 for a transformation that maximises what it is given as `forget_fn`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = tuple(IMAGE_FORGET_LOSSES)
        self.require("forget_loss", self.forget_loss in known, f"one of {known}")

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """Steps on a forget and a retain batch each; epochs pass over the retain set."""
        label_key, key = jax.random.split(key)
        forget = problem.forget
        if self.forget_loss == "random_labels":
            forget = with_random_labels(forget, problem.classifier.num_classes, label_key)
        extras: dict[str, jax.Array] = {}
        if self.forget_loss == "matched":
            extras["unseen_quantiles"] = unseen_quantiles(problem)
        loss, sign = IMAGE_FORGET_LOSSES[self.forget_loss], self.forget_sign
        steps = self.steps(len(problem.retain.labels), problem.batch_size)
        return descend(
            self,
            problem.classifier,
            problem.variables,
            {"retain": problem.retain, "forget": forget},
            lambda classify, batches, k: {
                "forget_fn": lambda params: (
                    sign * loss(classify, params, {**batches["forget"], **extras})
                ),
                "retain_fn": lambda params: classification.classification_loss(
                    classify, params, batches["retain"]
                ),
            },
            self.transformation(steps),
            steps,
            problem.batch_size,
            key,
            estimate_on=problem.retain,
        )

    @abc.abstractmethod
    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """The update rule over `steps` steps; its `update` takes `forget_fn` and `retain_fn`."""


@dataclasses.dataclass(frozen=True)
class ImageGradDiff(TwoObjectives):
    """Minimises `gamma forget + alpha CE(retain)`, or what an update rule makes of the two."""

    gamma: float = 1.0
    """Weight of the forget loss."""
    alpha: float = 1.0
    """Weight of the retain loss."""
    update_rule: str = "sum"
    """How the two weighted gradients make one; the rules are those of `aggregators`. ngdiff fits
    its learning rate to the retain loss."""

    name: ClassVar[str] = "grad_diff"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gamma", self.gamma > 0, "a number > 0")
        self.require("alpha", self.alpha > 0, "a number > 0")
        rules = tuple(UPDATE_RULES)
        self.require("update_rule", self.update_rule in rules, f"one of {rules}")

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """SGD on what the update rule makes of the two weighted gradients."""
        optimizer = self.optimizer(steps)
        if self.update_rule == "ngdiff":
            optimizer = optax.chain(optimizer, scale_by_fitted_rate())
        rule = UPDATE_RULES[self.update_rule]()
        return bilevel.skip_nonfinite(aggregated(optimizer, rule, self.gamma, self.alpha))


@dataclasses.dataclass(frozen=True)
class ImageOfmu(TwoLoop, TwoObjectives):
    """OFMU as published, with SGD outside; the optimiser is the one of language models.

    Its inner loop maximises the cross-entropy of the forget rows, or another negated forget loss.
    """

    name: ClassVar[str] = "ofmu"
    forget_sign: ClassVar[int] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_two_loops(self.forget_loss)

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """`bilevel.ofmu` around SGD; the schedule holds for both learning rates."""
        return self.two_loops(self.optimizer(steps), learning_rates(self.schedule, 1.0, steps))


@dataclasses.dataclass(frozen=True)
class ImageOfmuPlus(ImageOfmu):
    """The two loops at first-order cost, with a forget loss that ends; as `OfmuPlus`."""

    forget_loss: str = "matched"
    """As of OFMU."""
    beta: float = 0.0
    """As of OFMU."""
    inner_steps: int = 1
    """As of OFMU."""
    penalty: str = "none"
    """As of OFMU."""

    name: ClassVar[str] = "ofmu_plus"


def unseen_quantiles(problem: Problem) -> jax.Array:
    """(Q,) quantiles of the losses that the original model gives to what it has never seen.

    Where a part of all classes is to be forgotten: the losses of the unseen rows. Where whole
    classes are: a class that was never seen is to the model what it is sure that an image is not,
    so the losses of every wrong class of the unseen rows.
    """
    logits = all_logits(problem.classifier, problem.variables, problem.unseen, problem.batch_size)
    losses = -jax.nn.log_softmax(logits)
    right = problem.unseen.labels[:, None] == jnp.arange(logits.shape[1])
    points = jnp.linspace(0, 1, QUANTILES)
    if not problem.whole_classes:
        return jnp.quantile(jnp.sum(jnp.where(right, losses, 0), axis=1), points)
    return jnp.nanquantile(jnp.where(right, jnp.nan, losses), points)
