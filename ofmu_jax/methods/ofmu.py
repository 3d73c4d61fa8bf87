"""OFMU as published (Asif and Mohammadi Amiri, arXiv 2509.22483)."""

import dataclasses
from typing import Any, ClassVar

import jax
import optax

from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.forget_losses import FORGET_LOSSES
from ofmu_jax.methods.grad_diff import GradDiff
from ofmu_jax.methods.two_loop import TwoLoop


@dataclasses.dataclass(frozen=True)
class Ofmu(TwoLoop, Method):
    """Inner: T ascents on `Phi = L_f - beta cos(grad L_f, grad L_r)`. Outer: AdamW on F.

    See `ofmu_jax.bilevel.ofmu` for the algorithm and the meaning of the names.
    """

    forget_loss: str = "cross_entropy"
    """L_f: "cross_entropy", or the negated forget loss of a method by its name, such as "npo",
    which is bounded above."""
    forget_beta: float | None = None
    """That loss's beta, if it has one; its method's default if not given, as for those below."""
    forget_beta1: float | None = None
    """The same for beta1."""
    forget_beta2: float | None = None
    """The same for beta2."""
    forget_delta: float | None = None
    """The same for delta."""
    forget_steering: float | None = None
    """The same for steering."""
    forget_layer: int | None = None
    """The same for layer."""
    retain_loss: str = "nll"
    """L_r: nll, kl, or what else the method of the forget loss has."""

    name: ClassVar[str] = "ofmu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_two_loops(self.forget_loss)
        losses = tuple(FORGET_LOSSES)
        self.require("forget_loss", self.forget_loss in losses, f"one of {losses}")
        kind = FORGET_LOSSES[self.forget_loss]
        fields = {field.name for field in dataclasses.fields(kind)}
        for name in self._forget_numbers():
            field = f"forget_{name}"
            self.require(field, name in fields, f"left out, as {self.forget_loss!r} has no {name}")
        try:
            kind(retain_loss=self.retain_loss, **self._forget_numbers())
        except ValueError as error:
            raise InputError(f"method {self.name}: {error}") from error

    def _forget_numbers(self) -> dict[str, Any]:
        """What is given of the forget loss's own hyperparameters, under their names there."""
        names = ("beta", "beta1", "beta2", "delta", "steering", "layer")
        given = {name: getattr(self, f"forget_{name}") for name in names}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def _baseline(self) -> GradDiff:
        """The method whose losses these are."""
        default = FORGET_LOSSES[self.forget_loss](retain_loss=self.retain_loss)
        return default.with_numbers(self._forget_numbers())

    @property
    def needs_reference(self) -> bool:
        """As the method of the forget loss."""
        return self._baseline.needs_reference

    @property
    def needs_refusals(self) -> bool:
        """As the method of the forget loss."""
        return self._baseline.needs_refusals

    @property
    def needs_alternatives(self) -> bool:
        """As the method of the forget loss."""
        return self._baseline.needs_alternatives

    @property
    def needs_unseen(self) -> bool:
        """As the method of the forget loss."""
        return self._baseline.needs_unseen

    @property
    def needs_reference_logits(self) -> bool:
        """As the method of the forget loss, or for the retain loss."""
        return self._baseline.needs_reference_logits

    @property
    def hidden_layer(self) -> int | None:
        """As the method of the forget loss."""
        return self._baseline.hidden_layer

    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """L_f, which the inner loop maximises, and L_r."""
        forget, retain = self._baseline.losses(apply_fn)
        return lambda params, batch: -forget(params, batch), retain

    def forget_count(self, batch: Any) -> jax.Array:
        """As the method of the forget loss."""
        return self._baseline.forget_count(batch)

    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """`bilevel.ofmu` around clipped AdamW."""
        return self.two_loops(self.optimizer(steps))
