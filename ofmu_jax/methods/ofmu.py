"""OFMU as published (Asif and Mohammadi Amiri, arXiv 2509.22483)."""

import dataclasses
import functools
from typing import ClassVar

import optax

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.losses import language
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method

FORGET_LOSSES = ("cross_entropy", "npo")
INNER_OPTIMIZERS = ("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class Ofmu(Method):
    """Inner: T ascents on `Phi = L_f - beta cos(grad L_f, grad L_r)`. Outer: AdamW on F.

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
    """Optimiser of the inner ascent: "sgd" or "adam"."""
    variant: str = "endpoint"
    """Where the outer gradient is taken and the step starts."""
    similarity: str = "cosine"
    """"cosine" as published, or "squared_cosine"."""
    similarity_hvp: str = "exact"
    """How the similarity's gradient is computed: "exact" or "finite_difference"."""
    hvp: str = "trajectory"
    """How the outer term is computed: "exact", "finite_difference" or "trajectory"."""
    penalty: str = "stationarity"
    """"stationarity" as published, "value_gap" or "none"."""
    forget_loss: str = "cross_entropy"
    """L_f: "cross_entropy", or "npo" for the negated NPO loss, which is bounded above."""
    npo_beta: float = 0.1
    """Inverse temperature where `forget_loss` is "npo"."""

    name: ClassVar[str] = "ofmu"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("inner_learning_rate", self.inner_learning_rate > 0, "a number > 0")
        self.require("npo_beta", self.npo_beta > 0, "a number > 0")
        for field, names in (
            ("inner_optimizer", INNER_OPTIMIZERS),
            ("forget_loss", FORGET_LOSSES),
        ):
            self.require(field, getattr(self, field) in names, f"one of {names}")
        try:
            self.transformation(steps=1)
        except ValueError as error:
            raise InputError(f"method {self.name}: {error}") from error

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """L_f, which the inner loop maximises, and L_r, cross-entropy on retain."""
        cross_entropy = functools.partial(language.cross_entropy, apply_fn)
        if self.forget_loss == "cross_entropy":
            return cross_entropy, cross_entropy
        return (
            lambda params, batch: (
                -language.npo(apply_fn, params, batch, batch["reference_log_prob"], self.npo_beta)
            ),
            cross_entropy,
        )

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """`bilevel.ofmu`."""
        inner = {"sgd": optax.sgd, "adam": optax.adam}[self.inner_optimizer]
        return bilevel.ofmu(
            inner=inner(self.inner_learning_rate),
            outer=self.optimizer(steps),
            beta=self.beta,
            rho=bilevel.geometric(self.rho, self.rho_growth, self.rho_cap),
            inner_steps=self.inner_steps,
            variant=self.variant,
            similarity=bilevel.Similarity(self.similarity, hvp=self.similarity_hvp),
            hvp=self.hvp,
            penalty=self.penalty,
        )
