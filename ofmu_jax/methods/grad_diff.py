"""Gradient difference: ascent on the forget set, descent on the retain set.

Liu et al. 2022, "Continual Learning and Private Unlearning", arXiv 2203.12817.
"""

import dataclasses
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.aggregators import UPDATE_RULES, scale_by_fitted_rate
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.grad_ascent import GradAscent
from ofmu_jax.methods.scalarised import aggregated


@dataclasses.dataclass(frozen=True)
class GradDiff(Method):
    """Minimises `-gamma CE(forget) + alpha CE(retain)`."""

    gamma: float = 1.0
    """Weight of the forget loss."""
    alpha: float = 1.0
    """Weight of the retain loss."""
    update_rule: str = "sum"
    """How the two weighted gradients make one: sum; pcgrad (Yu et al., arXiv 2001.06782); mgda
    (Désidéri 2012); projection (of forget away from -retain; A-GEM, arXiv 1812.00420); ngdiff (Bu
    et al., arXiv 2410.22086), whose learning rate is fitted to the retain loss, without warm-up and
    decay; munba (Wu and Harandi, arXiv 2411.15537); blur (Reisizadeh et al., arXiv 2506.08164),
    whose gamma is the forget loss's. ngdiff and munba do not feel gamma and alpha."""

    name: ClassVar[str] = "grad_diff"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gamma", self.gamma > 0, "a number > 0")
        self.require("alpha", self.alpha >= 0, "a number >= 0")
        rules = tuple(UPDATE_RULES)
        self.require("update_rule", self.update_rule in rules, f"one of {rules}")
        # Without a retain gradient nothing is left to combine.
        self.require(
            "alpha",
            self.alpha > 0 or self.update_rule == "sum",
            f"a number > 0 with update_rule {self.update_rule!r}",
        )

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """Those of gradient ascent."""
        return GradAscent().losses(apply_fn)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Clipped AdamW; with ngdiff the fitted rate stands in for the schedule."""
        if self.update_rule != "ngdiff":
            return super().optimizer(steps)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.adamw(self.learning_rate, weight_decay=self.weight_decay),
            scale_by_fitted_rate(),
        )

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """AdamW on what the update rule makes of the two weighted gradients."""
        rule = UPDATE_RULES[self.update_rule]()
        return bilevel.skip_nonfinite(
            aggregated(self.optimizer(steps), rule, self.gamma, self.alpha)
        )
