"""A retain weight that rises while the retain loss exceeds its bound."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from ofmu_jax import bilevel
from ofmu_jax.methods.scalarised import AggregatedState, aggregated


class DualState(NamedTuple):
    """State of the aggregator within `dual_ascent`.

    Attributes:
      dual: the weight of the retain gradient in the next step, float32.
      taken: steps taken, int32.
      rule_state: state of the update rule.
    """

    dual: jax.Array
    taken: jax.Array
    rule_state: optax.OptState


def dual_ascent(
    optimizer: optax.GradientTransformation,
    rule: aggregating.Aggregator,
    forget_weight: float | jax.Array,
    start: float | jax.Array,
    step_size: float | jax.Array,
    bound: float | jax.Array,
    held: float | jax.Array,
) -> optax.GradientTransformationExtraArgs:
    """Descent on `forget_weight L_f + dual L_r`, ascent of `dual` on `L_r - bound`.

    After each step, `dual <- max(0, dual + step_size (L_r - bound))`, with the L_r of that step's
    batch before the step: the primal-dual iteration for `min L_f subject to L_r <= bound`.

    Args:
      optimizer: as for `aggregated`.
      rule: combines `dual grad L_r` and `forget_weight grad L_f`.
      forget_weight: weight of the forget loss.
      start: the dual variable at first, >= 0.
      step_size: of the ascent, >= 0.
      bound: on the retain loss.
      held: the first steps, so many, leave the dual variable as it is.

    Returns:
      A transformation as `aggregated`, with an `AggregatedState` whose `aggregator_state` is a
      `DualState`; the diagnostics are of the losses as they are.
    """

    def init_dual(params: bilevel.Params) -> DualState:
        dual = jnp.asarray(start, jnp.float32)
        return DualState(dual, jnp.zeros((), jnp.int32), rule.init(params))

    def combine(
        per_elt_updates: bilevel.Params,
        state: DualState,
        params: bilevel.Params | None = None,
        **extra_args: Any,
    ) -> tuple[bilevel.Params, DualState]:
        def weighted(g: jax.Array) -> jax.Array:
            return jnp.stack([(state.dual * g[0]).astype(g.dtype), g[1]])

        direction, rule_state = rule.update(
            jax.tree.map(weighted, per_elt_updates), state.rule_state, params, **extra_args
        )
        return direction, state._replace(rule_state=rule_state)

    inner = aggregated(
        optimizer, aggregating.Aggregator(init_dual, combine), forget_weight, retain_weight=1.0
    )

    def update(
        updates: bilevel.Params | None,
        state: AggregatedState,
        params: bilevel.Params | None = None,
        **losses: Any,
    ) -> tuple[bilevel.Params, AggregatedState]:
        step, state = inner.update(updates, state, params, **losses)
        dual_state = state.aggregator_state
        excess = state.diagnostics.retain_loss - bound
        raised = jnp.maximum(dual_state.dual + step_size * excess, 0.0)
        dual = jnp.where(dual_state.taken >= held, raised, dual_state.dual)
        taken = optax.safe_increment(dual_state.taken)
        dual_state = DualState(dual.astype(jnp.float32), taken, dual_state.rule_state)
        return step, state._replace(aggregator_state=dual_state)

    return optax.GradientTransformationExtraArgs(inner.init, update)
