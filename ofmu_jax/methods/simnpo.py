"""Simple NPO (Fan et al. 2024, arXiv 2410.07163)."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ofmu_jax.losses import unlearning
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class SimNpo(GradDiff):
    """Minimises `gamma SimNPO(forget) + alpha CE(retain)`; no reference model."""

    gamma: float = 0.125
    """Weight of the forget loss."""
    beta: float = 4.5
    """Inverse temperature."""
    delta: float = 0.0
    """Margin in nats per token."""

    name: ClassVar[str] = "simnpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("beta", self.beta > 0, "a number > 0")
        self.require("delta", math.isfinite(self.delta), "a finite number")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """SimNPO, which is bounded below."""
        return functools.partial(unlearning.simnpo, apply_fn, beta=self.beta, delta=self.delta)

    def forget_count(self, batch: Any) -> jax.Array:
        """The rows."""
        return jnp.asarray(len(batch["tokens"]))
