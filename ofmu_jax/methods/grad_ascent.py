"""Gradient ascent on the forget set alone (Jang et al. 2023, arXiv 2210.01504)."""

import dataclasses
import functools
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.losses import language
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.scalarised import weighted_sum


@dataclasses.dataclass(frozen=True)
class GradAscent(Method):
    """Minimises `-CE(forget)`; nothing holds the model on the retain set."""

    name: ClassVar[str] = "grad_ascent"

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """Negated cross-entropy on forget; cross-entropy on retain, which the update leaves out."""
        retain = functools.partial(language.cross_entropy, apply_fn)
        return lambda params, batch: -retain(params, batch), retain

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """AdamW on the forget loss."""
        return bilevel.skip_nonfinite(weighted_sum(self.optimizer(steps), 1.0, 0.0))
