"""Gradient difference: ascent on the forget set, descent on the retain set.

Liu et al. 2022, "Continual Learning and Private Unlearning", arXiv 2203.12817.
"""

import dataclasses
import functools
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.aggregators import UPDATE_RULES, scale_by_fitted_rate
from ofmu_jax.losses import language
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.retain_losses import RETAIN_LOSSES
from ofmu_jax.methods.scalarised import aggregated


@dataclasses.dataclass(frozen=True)
class GradDiff(Method):
    """Minimises `-gamma CE(forget) + alpha CE(retain)`.

    A subclass with another `forget` is another method, with all retain losses and update rules.
    """

    gamma: float = 1.0
    """Weight of the forget loss."""
    alpha: float = 1.0
    """Weight of the retain loss."""
    retain_loss: str = "nll"
    """nll, the cross-entropy of the retain answers; or kl, the divergence KL(original || model) of
    the next token there."""
    update_rule: str = "sum"
    """How the two weighted gradients make one: sum; pcgrad (Yu et al., arXiv 2001.06782); mgda
    (Désidéri 2012); projection (of forget away from -retain; A-GEM, arXiv 1812.00420); ngdiff (Bu
    et al., arXiv 2410.22086), whose learning rate is fitted to the retain loss, without warm-up and
    decay; munba (Wu and Harandi, arXiv 2411.15537); blur (Reisizadeh et al., arXiv 2506.08164),
    whose gamma is the forget loss's. ngdiff and munba do not feel gamma and alpha."""

    name: ClassVar[str] = "grad_diff"
    retain_losses: ClassVar[tuple[str, ...]] = tuple(RETAIN_LOSSES)
    """What `retain_loss` may be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gamma", self.gamma > 0, "a number > 0")
        self.require("alpha", self.alpha >= 0, "a number >= 0")
        known = self.retain_losses
        self.require("retain_loss", self.retain_loss in known, f"one of {known}")
        rules = tuple(UPDATE_RULES)
        self.require("update_rule", self.update_rule in rules, f"one of {rules}")
        # Without a retain gradient nothing is left to combine.
        self.require(
            "alpha",
            self.alpha > 0 or self.update_rule == "sum",
            f"a number > 0 with update_rule {self.update_rule!r}",
        )

    @property
    def needs_reference_logits(self) -> bool:
        """With the divergence as the retain loss."""
        return self.retain_loss == "kl"

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """`forget` and `retain`."""
        return self.forget(apply_fn), self.retain(apply_fn)

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """The forget loss, to be minimised: negated cross-entropy."""
        return lambda params, batch: -language.cross_entropy(apply_fn, params, batch)

    def retain(self, apply_fn: ApplyFn) -> BatchLoss:
        """The retain loss that `retain_loss` names."""
        return functools.partial(RETAIN_LOSSES[self.retain_loss], apply_fn)

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
