"""What a method of unlearning is for image classifiers: a pure function of a problem and a key."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from ofmu_jax.methods.hyperparameters import Hyperparameters
from ofmu_jax.methods.vision.problem import Problem

STATISTICS = ("re-estimated", "train", "frozen")
SCHEDULES = ("constant", "cosine", "step")


class Unlearned(NamedTuple):
    """What a method ends with.

    Attributes:
      variables: of the unlearned model.
      metrics: by name, (steps,) float32; empty for a method that takes no steps.
    """

    variables: Any
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ImageMethod(Hyperparameters, abc.ABC):
    """A method with its hyperparameters. `unlearn` can be jitted, and mapped over keys."""

    name: ClassVar[str]

    @abc.abstractmethod
    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """The unlearned model.

        Args:
          problem: the model and the request.
          key: of all that is random in it.
        """


@dataclasses.dataclass(frozen=True)
class StepMethod(ImageMethod):
    """A method that takes gradient steps."""

    learning_rate: float = 0.01
    """Learning rate of the (outer) SGD."""
    momentum: float = 0.9
    """Its momentum."""
    weight_decay: float = 5e-4
    """Weight decay, as the gradient of half the squared norm of the parameters."""
    epochs: float = 10.0
    """Passes over the rows that the method steps on: the retain set unless it says otherwise."""
    schedule: str = "constant"
    """Of the learning rate: constant; cosine, down to 0; or step, divided by 10 after a half and
    after three quarters."""
    statistics: str = "re-estimated"
    """Of batch norm. With train and re-estimated the losses normalise by the batch's own ones;
    the running ones follow the last batches (train) or are computed anew over retain rows for the
    final parameters (re-estimated). With frozen the losses take the original model's, which
    stay."""

    def __post_init__(self) -> None:
        self.require("learning_rate", self.learning_rate > 0, "a number > 0")
        self.require("momentum", 0 <= self.momentum < 1, "a number in [0, 1)")
        self.require("weight_decay", self.weight_decay >= 0, "a number >= 0")
        self.require("epochs", self.epochs > 0, "a number > 0")
        self.require("schedule", self.schedule in SCHEDULES, f"one of {SCHEDULES}")
        self.require("statistics", self.statistics in STATISTICS, f"one of {STATISTICS}")

    def steps(self, rows: int, batch_size: int) -> int:
        """Steps of `epochs` passes over that many rows, at least one."""
        return max(math.ceil(self.epochs * rows / batch_size), 1)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """SGD with momentum and weight decay."""
        rate = learning_rates(self.schedule, self.learning_rate, steps)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.sgd(rate, self.momentum)
        )


def learning_rates(schedule: str, peak: Any, steps: int) -> optax.Schedule:
    """A schedule of `SCHEDULES` over `steps` steps.

    >>> rate = learning_rates("step", 1.0, 182)
    >>> [round(float(rate(k)), 2) for k in (0, 90, 91, 135, 136)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    if schedule == "cosine":
        return optax.cosine_decay_schedule(peak, steps)
    if schedule == "step":
        return optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, 3 * steps // 4: 0.1})
    return optax.constant_schedule(peak)
