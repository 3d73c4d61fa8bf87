"""Unlearning by self-distillation with adjusted logits (Dong et al. 2024, arXiv 2402.10052)."""

import dataclasses
import functools
from typing import ClassVar

from ofmu_jax.losses import distillation
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Undial(GradDiff):
    """Minimises the cross-entropy to the original model with the true tokens' logits lowered."""

    alpha: float = 0.0
    """Weight of the retain loss; as published there is none."""
    beta: float = 10.0
    """By how much the logits are lowered."""

    name: ClassVar[str] = "undial"
    needs_reference_logits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("beta", self.beta > 0, "a number > 0")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """UNDIAL, which is bounded below."""
        return functools.partial(distillation.undial, apply_fn, beta=self.beta)
