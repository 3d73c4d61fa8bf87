"""OFMU with an inner problem that has a solution; new here. Equations: docs/comparison.md."""

import dataclasses
from typing import ClassVar

import optax

from ofmu_jax.methods.ofmu import Ofmu


@dataclasses.dataclass(frozen=True)
class OfmuPlus(Ofmu):
    """The two-loop algorithm at first-order cost, with a forget loss that ends.

    OFMU with `L_f = -matching(forget)`, which is greatest, and stationary, where the forget answers
    are as improbable as answers that were never seen; one inner step; no similarity term and no
    outer penalty, which such an inner problem does not need. Each can be turned on again. A step
    costs one gradient of either loss.
    """

    forget_loss: str = "matched"
    """As of OFMU."""
    beta: float = 0.0
    """As of OFMU."""
    inner_steps: int = 1
    """As of OFMU."""
    inner_learning_rate: float = 5e-4
    """As of OFMU."""
    penalty: str = "none"
    """As of OFMU."""

    name: ClassVar[str] = "ofmu_plus"

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """As of OFMU; the inner step size rises and falls with the outer learning rate."""
        return self.two_loops(self.optimizer(steps), self.schedule(steps))
