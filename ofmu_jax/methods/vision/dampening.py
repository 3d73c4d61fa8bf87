"""Selective synaptic dampening: weights that matter to the forget set alone are made small."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ofmu_jax.methods.vision.base import ImageMethod, Unlearned
from ofmu_jax.methods.vision.problem import Problem
from ofmu_jax.methods.vision.whole_sets import mean_squared_gradients

# Gradients of single rows are held at once for so many.
_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Dampening(ImageMethod):
    """SSD: where `I_f > alpha I`, weights are multiplied by `min(strength I / I_f, 1)`.

    I_f and I are the mean squared gradients over the forget rows and over all rows. Foster et al.
    2024, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", arXiv
    2308.07707, equations 6 and 7 (`strength` is its lambda). It takes no steps; statistics stay.
    """

    alpha: float = 10.0
    """How much more a weight must matter to the forget rows."""
    strength: float = 1.0
    """Bound of the factor's numerator."""

    name: ClassVar[str] = "dampening"

    def __post_init__(self) -> None:
        self.require("alpha", self.alpha > 0, "a number > 0")
        self.require("strength", self.strength > 0, "a number > 0")

    def unlearn(self, problem: Problem, key: jax.Array) -> Unlearned:
        """The dampened model; nothing is random."""
        del key
        variables, classifier = problem.variables, problem.classifier
        forget, retain = (
            mean_squared_gradients(classifier, variables, rows, min(problem.batch_size, _ROWS))
            for rows in (problem.forget, problem.retain)
        )
        counts = len(problem.forget.labels), len(problem.retain.labels)

        def damp(weight: jax.Array, own: jax.Array, other: jax.Array) -> jax.Array:
            overall = (counts[0] * own + counts[1] * other) / sum(counts)
            chosen = own > self.alpha * overall
            factor = jnp.minimum(self.strength * overall / jnp.where(chosen, own, 1), 1)
            return jnp.where(chosen, factor, 1) * weight

        params = jax.tree.map(damp, variables.params, forget, retain)
        return Unlearned(classifier.variables(params, variables.statistics), {})
