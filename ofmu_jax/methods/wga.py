"""Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301)."""

import dataclasses
import functools
from typing import ClassVar

from ofmu_jax.losses import unlearning
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Wga(GradDiff):
    """Minimises `-gamma mean p^beta CE(forget) + alpha CE(retain)`, token by token."""

    beta: float = 1.0
    """Exponent of the token's probability; 0 is gradient difference."""

    name: ClassVar[str] = "wga"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("beta", self.beta >= 0, "a number >= 0")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """Weighted ascent."""
        return functools.partial(unlearning.weighted_ascent, apply_fn, likelihood=self.beta)
