"""Cross-entropy unlearning (Yang 2025, arXiv 2503.01224)."""

import dataclasses
import functools
from typing import ClassVar

from ofmu_jax.losses import unlearning
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Ceu(GradDiff):
    """Minimises the cross-entropy to the model's own answers without the true tokens."""

    alpha: float = 0.0
    """Weight of the retain loss; as published there is none."""

    name: ClassVar[str] = "ceu"

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """Counterfactual cross-entropy, which is bounded below."""
        return functools.partial(unlearning.counterfactual_cross_entropy, apply_fn)
