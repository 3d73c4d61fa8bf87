"""Primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314)."""

import dataclasses
import functools
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.aggregators import UPDATE_RULES
from ofmu_jax.losses import unlearning
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.dual_ascent import dual_ascent
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Pdu(GradDiff):
    """Minimises `gamma margin(forget)` subject to `CE(retain) <= epsilon`.

    The margin is that of the greatest logit over the mean one, squared. Every step descends
    `gamma margin(forget) + alpha CE(retain)`, and then moves the dual variable alpha by
    `dual_step (CE(retain) - epsilon)`, never below 0. During the warm-up alpha stays as it is,
    while the model is trained with it, as in the authors' program.
    """

    alpha: float = 100.0
    """The dual variable, weight of the retain loss, at first."""
    epsilon: float = 0.3
    """Bound on the retain loss, in nats per token."""
    dual_step: float = 5.0
    """Step size of the dual variable."""
    dual_warmup: float = 0.5
    """Part of the steps over which the dual variable stays as it is: 5 of the authors' 10 epochs
    on TOFU."""

    name: ClassVar[str] = "pdu"
    shown: ClassVar[tuple[str, ...]] = ("dual",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("epsilon", self.epsilon >= 0, "a number >= 0")
        self.require("dual_step", self.dual_step >= 0, "a number >= 0")
        self.require("dual_warmup", 0 <= self.dual_warmup <= 1, "a number in [0, 1]")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """The squared margin, which is bounded below."""
        return functools.partial(unlearning.logit_margin, apply_fn)

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """AdamW on what the update rule makes of the gradients, and dual ascent."""
        return bilevel.skip_nonfinite(
            dual_ascent(
                self.optimizer(steps),
                UPDATE_RULES[self.update_rule](),
                self.gamma,
                start=self.alpha,
                step_size=self.dual_step,
                bound=self.epsilon,
                held=self.dual_warmup * steps,
            )
        )
