"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ofmu_jax.losses import language
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Npo(GradDiff):
    """Minimises `gamma NPO(forget) + alpha CE(retain)`, NPO relative to the original model."""

    beta: float = 0.1
    """Inverse temperature: the smaller, the closer to gradient ascent."""

    name: ClassVar[str] = "npo"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("beta", self.beta > 0, "a number > 0")

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """NPO, which is bounded below."""
        return lambda params, batch: language.npo(
            apply_fn, params, batch, batch["reference_log_prob"], self.beta
        )

    def forget_count(self, batch: Any) -> jax.Array:
        """The rows."""
        return jnp.asarray(len(batch["tokens"]))
