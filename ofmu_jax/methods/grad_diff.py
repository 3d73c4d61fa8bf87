"""Gradient difference: ascent on the forget set, descent on the retain set.

Liu et al. 2022, "Continual Learning and Private Unlearning", arXiv 2203.12817.
"""

import dataclasses
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.grad_ascent import GradAscent
from ofmu_jax.methods.scalarised import weighted_sum


@dataclasses.dataclass(frozen=True)
class GradDiff(Method):
    """Minimises `-gamma CE(forget) + alpha CE(retain)`."""

    gamma: float = 1.0
    """Weight of the forget loss."""
    alpha: float = 1.0
    """Weight of the retain loss."""

    name: ClassVar[str] = "grad_diff"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gamma", self.gamma > 0, "a number > 0")
        self.require("alpha", self.alpha >= 0, "a number >= 0")

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """Those of gradient ascent."""
        return GradAscent().losses(apply_fn)

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """AdamW on the weighted sum."""
        return bilevel.skip_nonfinite(weighted_sum(self.optimizer(steps), self.gamma, self.alpha))
