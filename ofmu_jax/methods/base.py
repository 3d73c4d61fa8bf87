"""What a method is: two losses, an update rule, and defaults."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import jax
import optax

from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import ApplyFn, scored_tokens
from ofmu_jax.methods.hyperparameters import Hyperparameters

BatchLoss: TypeAlias = Callable[[Any, Any], jax.Array]
"""`(params, batch) -> scalar`."""


@dataclasses.dataclass(frozen=True)
class Method(Hyperparameters, abc.ABC):
    """A method of unlearning with its hyperparameters.

    A subclass states its `name`, whether it needs the model before unlearning as a reference, its
    two losses, and its update rule as an optax transformation that takes them as closures.
    """

    learning_rate: float = 1e-3
    """Peak learning rate of the (outer) AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the (outer) AdamW."""
    max_grad_norm: float = 1.0
    """Global norm to which the (outer) gradient is clipped."""
    warmup: float = 0.1
    """Part of the steps over which the learning rate rises, before it falls linearly to 0."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Scalars of the update rule's state, by name, to be shown beside its diagnostics."""

    def __post_init__(self) -> None:
        self.require("learning_rate", self.learning_rate > 0, "a number > 0")
        self.require("weight_decay", self.weight_decay >= 0, "a number >= 0")
        self.require("max_grad_norm", self.max_grad_norm > 0, "a number > 0")
        self.require("warmup", 0 <= self.warmup < 1, "a number in [0, 1)")

    @property
    def needs_reference(self) -> bool:
        """Whether forget batches must hold `reference_log_prob` (B,), from the original model."""
        return False

    @property
    def needs_refusals(self) -> bool:
        """Whether forget batches must hold `alternative`, the same questions with refusals; it has
        `reference_log_prob` of its own if they do."""
        return False

    @property
    def needs_alternatives(self) -> bool:
        """The same, with other answers that could be true in place of refusals."""
        return False

    @property
    def needs_unseen(self) -> bool:
        """Whether forget batches must hold `unseen_quantiles` (Q,), of the losses that the original
        model gives to the tokens of unseen answers."""
        return False

    @property
    def needs_reference_logits(self) -> bool:
        """Whether both batches must hold `reference_logits` (B, S, V), from the original model."""
        return False

    @property
    def hidden_layer(self) -> int | None:
        """The block, counted from 0, whose output the losses read, if they read one.

        Both batches then must hold `reference_states` (B, S, E), from the original model, and
        `losses` must be given a `losses.Network`.
        """
        return None

    @property
    def needs_original(self) -> bool:
        """Whether a step needs the original model's parameters."""
        return self.needs_reference_logits or self.hidden_layer is not None

    def check_depth(self, depth: int) -> None:
        """Raises InputError if the method needs a block that a model of `depth` blocks lacks."""
        if self.hidden_layer is not None and self.hidden_layer >= depth:
            raise InputError(
                f"method {self.name}: the losses read layer {self.hidden_layer}; expected a layer "
                f"from 0 to {depth - 1}, since the model has {depth} layers"
            )

    @abc.abstractmethod
    def losses(self, apply_fn: ApplyFn) -> tuple[BatchLoss, BatchLoss]:
        """The forget and the retain loss."""

    def forget_count(self, batch: Any) -> jax.Array:
        """Of how many things a batch's forget loss is the mean: its scored tokens, or its rows."""
        return scored_tokens(batch)

    @abc.abstractmethod
    def transformation(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """The update rule over `steps` steps; its `update` takes `forget_fn` and `retain_fn`."""

    def schedule(self, steps: int, peak: Any = 1.0) -> optax.Schedule:
        """Linear warm-up to the peak of a step size, and linear decay to 0."""
        rising = round(self.warmup * steps)
        return optax.join_schedules(
            [
                optax.linear_schedule(peak / (rising + 1), peak, rising),
                optax.linear_schedule(peak, 0.0, max(steps - rising, 1)),
            ],
            [rising],
        )

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Clipped AdamW with the learning rate of `schedule`."""
        schedule = self.schedule(steps, self.learning_rate)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.adamw(schedule, weight_decay=self.weight_decay),
        )
