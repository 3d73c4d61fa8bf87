"""The hyperparameters of OFMU's two loops, whatever the losses and the outer optimiser."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.methods.hyperparameters import Hyperparameters

INNER_OPTIMIZERS = ("sgd", "adam", "polyak")


@dataclasses.dataclass(frozen=True)
class TwoLoop(Hyperparameters):
    """Inner: T ascents on `Phi = L_f - beta cos(grad L_f, grad L_r)`. Outer: any optimiser on F.

    See `ofmu_jax.bilevel.ofmu` for the algorithm and the meaning of the names.
    """

    beta: float = 0.1
    """Similarity weight."""
    rho: float = 1e-3
    """First weight of the outer penalty."""
    rho_growth: float = 1.02
    """Factor by which rho grows each outer step."""
    rho_cap: float = 1.0
    """Bound on rho."""
    inner_steps: int = 5
    """T, ascent steps per outer step."""
    inner_learning_rate: float = 1e-4
    """Step size of the inner ascent."""
    inner_optimizer: str = "adam"
    """Optimiser of the inner ascent: "sgd"; "adam"; or "polyak", Adam without momentum whose step
    goes no further than where a parabola has the forget loss's known optimum, that of "matched";
    inner_learning_rate is a bound then. See `bilevel.polyak_bounded`."""
    variant: str = "endpoint"
    """Where the outer gradient is taken and the step starts."""
    similarity: str = "cosine"
    """"cosine" as published, or "squared_cosine"."""
    similarity_hvp: str = "exact"
    """How the similarity's gradient is computed: "exact" or "finite_difference"."""
    similarity_every: int = 1
    """The inner loop takes the similarity's gradient anew at each of so many steps; in between a
    step takes the forget gradient alone."""
    hvp: str = "trajectory"
    """How the outer term is computed: "exact", "finite_difference" or "trajectory"."""
    penalty: str = "stationarity"
    """"stationarity" as published, "gated" for the same only where s < 0, "value_gap" or "none"."""

    def check_two_loops(self, forget_loss: str) -> None:
        """Raises InputError for a name that does not exist or a number out of its range.

        Args:
          forget_loss: by name, what the inner loop is to maximise the negative of.
        """
        self.require("inner_learning_rate", self.inner_learning_rate > 0, "a number > 0")
        known = INNER_OPTIMIZERS
        self.require("inner_optimizer", self.inner_optimizer in known, f"one of {known}")
        self.require(
            "inner_optimizer",
            self.inner_optimizer != "polyak" or forget_loss == "matched",
            f"sgd or adam, as the forget loss {forget_loss} has no known optimum",
        )
        try:
            self.two_loops(optax.identity())
        except ValueError as error:
            raise InputError(f"method {self.name}: {error}") from error

    def two_loops(
        self,
        outer: optax.GradientTransformation,
        decay: Callable[[Any], Any] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """`bilevel.ofmu` with these hyperparameters around an outer optimiser.

        Args:
          outer: fed the gradient of F.
          decay: a factor of the inner step size, a schedule of the outer step; 1 by default.
        """
        rate: Any = self.inner_learning_rate
        if decay is not None:
            # The inner optimiser counts inner steps.
            def rate(count: Any) -> Any:
                return self.inner_learning_rate * decay(count // self.inner_steps)

        return bilevel.ofmu(
            inner=self._inner(rate),
            outer=outer,
            beta=self.beta,
            rho=bilevel.geometric(self.rho, self.rho_growth, self.rho_cap),
            inner_steps=self.inner_steps,
            variant=self.variant,
            similarity=bilevel.Similarity(
                self.similarity, hvp=self.similarity_hvp, every=self.similarity_every
            ),
            hvp=self.hvp,
            penalty=self.penalty,
        )

    def _inner(self, rate: Any) -> optax.GradientTransformation:
        if self.inner_optimizer == "sgd":
            return optax.sgd(rate)
        if self.inner_optimizer == "adam":
            return optax.adam(rate)
        # -Phi = M + beta cos is nowhere below -beta, M + beta cos^2 nowhere below 0.
        least = -self.beta if self.similarity == "cosine" else 0.0
        return bilevel.polyak_bounded(optax.adam(rate, b1=0.0), least)
