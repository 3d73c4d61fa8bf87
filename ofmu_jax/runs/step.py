"""One step of unlearning, and the batches that it is fed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ofmu_jax.bilevel import accumulated, split_rows
from ofmu_jax.data import Encoded, paired_indices, take
from ofmu_jax.data.batches import ALL_ROWS, Own
from ofmu_jax.errors import InputError
from ofmu_jax.losses import with_reference_logits, with_reference_states
from ofmu_jax.losses.language import ApplyFn, scored_tokens
from ofmu_jax.losses.representation import as_network
from ofmu_jax.methods import BatchLoss, Method
from ofmu_jax.runs.trainable import TrainState

WHOLE = ("unseen_quantiles",)
"""What a batch holds that is not by rows."""

_COUNTS = ("notfinite_count", "total_notfinite")

Step: TypeAlias = Callable[
    [TrainState, Any, Any, Any, Any], tuple[TrainState, dict[str, jax.Array]]
]
"""`(state, frozen, original, forget batch, retain batch) -> (state, metrics)`."""


class Feed(NamedTuple):
    """The rows of an unlearning request, with what a method needs to know about them.

    Attributes:
      forget: N rows.
      retain: M rows.
      alternative: N rows, the questions of `forget` with other answers; None if there are none.
      references: under "" and "alternative", (N,) log-probabilities of those rows under the
        original model; empty if the method needs none.
      unseen: (Q,) quantiles of the original model's losses of unseen answers' tokens; None if the
        method needs none.
    """

    forget: Encoded
    retain: Encoded
    alternative: Encoded | None
    references: Mapping[str, np.ndarray]
    unseen: np.ndarray | None = None

    def batches(
        self, k: int, batch_size: int, seed: int, own: Own = ALL_ROWS
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The forget and the retain batch of step k, of `batch_size` rows each; of them `own`."""
        sizes = len(self.forget.lengths), len(self.retain.lengths)
        rows = paired_indices(*sizes, k, batch_size=batch_size, seed=seed)
        forget: dict[str, Any] = {**take(self.forget, rows[0], own=own)}
        if self.alternative is not None:
            forget["alternative"] = {**take(self.alternative, rows[0], own=own)}
        for name, reference in self.references.items():
            target = forget["alternative"] if name else forget
            target["reference_log_prob"] = reference[rows[0][own]]
        if self.unseen is not None:
            forget["unseen_quantiles"] = self.unseen
        return forget, {**take(self.retain, rows[1], own=own)}


def check_batches(forget: Mapping[str, Any], retain: Mapping[str, Any]) -> None:
    """Checks that a forget and a retain batch can go through one model.

    Raises:
      InputError: if a key of the retain batch is missing in the forget batch, or an array differs
        in dtype or number of dimensions.
    """
    for key, value in retain.items():
        if key not in forget:
            raise InputError(
                f"the retain batch has {key!r}, the forget batch only {sorted(forget)}"
            )
        for what, a, b in (
            ("dtype", forget[key].dtype, value.dtype),
            ("dimensions", forget[key].ndim, value.ndim),
        ):
            if a != b:
                raise InputError(f"{key!r} has {what} {a} in forget batches but {b} in retain ones")


def unlearning_step(
    method: Method,
    apply_fn: ApplyFn,
    tx: optax.GradientTransformationExtraArgs,
    full: Callable[[Any, Any], Any],
    *,
    microbatches: int = 1,
    shardings: Any = None,
) -> Step:
    """One step of a method, a pure function to be jitted.

    Args:
      method: the method; its numbers may be traced.
      apply_fn: maps the model's parameters and tokens to logits; a `losses.Network` where the
        method reads hidden states.
      tx: the method's transformation.
      full: from what is trained and what is frozen to the model's parameters.
      microbatches: in how many parts the losses of a batch are taken, one after another; a divisor
        of its rows. Means over rows or tokens stay those of the whole batch.
      shardings: how the model's parameters lie on a mesh, a tree like them; so lie gradients by
        them then, too, also those that gradients by adapters are taken from.

    Returns:
      The step; its metrics are scalars, the method's diagnostics, the counts of skipped steps, and
      what else of its state the method shows.
    """
    forget_loss, retain_loss = method.losses(apply_fn)

    def parameters(p: Any, frozen: Any) -> Any:
        whole = full(p, frozen)
        return whole if shardings is None else jax.lax.with_sharding_constraint(whole, shardings)

    def with_reference(batch: Any, original: Any) -> Any:
        if method.needs_reference_logits:
            batch = with_reference_logits(apply_fn, original, batch)
        if method.hidden_layer is not None:
            network = as_network(apply_fn)
            batch = with_reference_states(network, original, batch, method.hidden_layer)
        return batch

    def objective(
        loss: BatchLoss, count: Callable[[Any], jax.Array], batch: Any, original: Any, frozen: Any
    ) -> Callable[[Any], jax.Array]:
        """The loss of what is trained alone."""
        # The reference is taken once per step, however often the update rule evaluates the loss.
        if microbatches == 1:
            referenced = with_reference(batch, original)
            return lambda p: loss(parameters(p, frozen), referenced)
        parts = _split(batch, microbatches)
        parts = jax.lax.map(lambda part: with_reference(part, original), parts)
        return accumulated(
            lambda p, part: loss(parameters(p, frozen), part), parts, jax.vmap(count)(parts)
        )

    def step(
        state: TrainState, frozen: Any, original: Any, forget_batch: Any, retain_batch: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        updates, opt_state = tx.update(
            None,
            state.opt_state,
            state.params,
            forget_fn=objective(forget_loss, method.forget_count, forget_batch, original, frozen),
            retain_fn=objective(retain_loss, scored_tokens, retain_batch, original, frozen),
        )
        metrics = {
            **optax.tree.get(opt_state, "diagnostics")._asdict(),
            **{name: optax.tree.get(opt_state, name) for name in (*_COUNTS, *method.shown)},
        }
        return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics

    return step


def _split(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Microbatches of a batch; what is not by rows is the same in all of them."""
    rows = {name: value for name, value in batch.items() if name not in WHOLE}
    whole = {
        name: jnp.broadcast_to(batch[name], (count, *batch[name].shape))
        for name in WHOLE
        if name in batch
    }
    return {**split_rows(rows, count), **whole}
