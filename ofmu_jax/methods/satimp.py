"""SatImp: saturation and importance weights together (Yang et al. 2025, arXiv 2505.11953)."""

import dataclasses
import functools
from typing import ClassVar

from ofmu_jax.losses import unlearning
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class SatImp(GradDiff):
    """Minimises `-gamma mean p^b1 (1 - p)^b2 CE(forget) + alpha CE(retain)`, token by token."""

    gamma: float = 0.1
    """Weight of the forget loss."""
    beta1: float = 5.0
    """Exponent of the token's probability."""
    beta2: float = 1.0
    """Exponent of one less that."""

    name: ClassVar[str] = "satimp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("beta1", self.beta1 >= 0, "a number >= 0")
        self.require("beta2", self.beta2 >= 0, "a number >= 0")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """Weighted ascent."""
        return functools.partial(
            unlearning.weighted_ascent, apply_fn, likelihood=self.beta1, unlikelihood=self.beta2
        )
