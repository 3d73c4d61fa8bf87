"""One descent step along a combination of the forget and the retain gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from ofmu_jax import aggregators, bilevel


class AggregatedState(NamedTuple):
    """State of `aggregated`: those of its parts, and the last step's diagnostics."""

    aggregator_state: optax.OptState
    opt_state: optax.OptState
    diagnostics: bilevel.Diagnostics


def aggregated(
    optimizer: optax.GradientTransformation,
    aggregator: aggregating.Aggregator,
    forget_weight: float | jax.Array,
    retain_weight: float | jax.Array,
) -> optax.GradientTransformationExtraArgs:
    """Feeds the aggregate of `retain_weight grad L_r` and `forget_weight grad L_f` to an optimiser.

    The two gradients are taken apart, which costs what the gradient of the sum costs, as the
    batches are two, and shows their norms and their cosine. An objective of weight 0 is not
    evaluated; its gradient is 0 to the aggregator, and its diagnostics are NaN.

    Args:
      optimizer: any optax transformation; one that asks for `forget_fn` or `retain_fn` gets them.
      aggregator: any Aggregator over a leading objective axis, (retain, forget).
      forget_weight: weight of the forget loss, which is minimised.
      retain_weight: weight of the retain loss.

    Returns:
      A transformation whose `update` takes `forget_fn` and `retain_fn`, as `bilevel.ofmu` does.
    """
    weights = {"forget_fn": forget_weight, "retain_fn": retain_weight}
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: bilevel.Params) -> AggregatedState:
        return AggregatedState(aggregator.init(params), optimizer.init(params), _diagnostics({}))

    def update(
        updates: bilevel.Params | None,
        state: AggregatedState,
        params: bilevel.Params | None = None,
        **losses: Any,
    ) -> tuple[bilevel.Params, AggregatedState]:
        evaluated = {
            name: jax.value_and_grad(losses[name])(params)
            for name, weight in weights.items()
            # A traced weight, whose number is not known yet, may be anything.
            if isinstance(weight, jax.core.Tracer) or weight != 0
        }
        weighted = [
            optax.tree.scale(weights[name], evaluated[name][1])
            if name in evaluated
            else optax.tree.zeros_like(params)
            for name in ("retain_fn", "forget_fn")
        ]
        gradient, aggregator_state = aggregator.update(
            jax.tree.map(lambda *gs: jnp.stack(gs), *weighted), state.aggregator_state, params
        )
        if updates is not None:
            gradient = optax.tree.add(gradient, updates)
        step, opt_state = optimizer.update(gradient, state.opt_state, params, **losses)
        return step, AggregatedState(aggregator_state, opt_state, _diagnostics(evaluated))

    return optax.GradientTransformationExtraArgs(init, update)


def weighted_sum(
    optimizer: optax.GradientTransformation, forget_weight: float, retain_weight: float
) -> optax.GradientTransformationExtraArgs:
    """Linear scalarisation: `aggregated` with the sum as its aggregator."""
    return aggregated(optimizer, aggregators.weighted_sum(), forget_weight, retain_weight)


def _diagnostics(evaluated: dict[str, Any]) -> bilevel.Diagnostics:
    def unknown() -> jax.Array:
        # A new array each time: a state is to be donated, and a buffer can be only once.
        return jnp.full((), jnp.nan, jnp.float32)

    loss = {name: jnp.asarray(value, jnp.float32) for name, (value, _) in evaluated.items()}
    stacks = {name: jax.tree.map(lambda g: g[None], grad) for name, (_, grad) in evaluated.items()}
    norm = {name: bilevel.norms(stack)[0].astype(jnp.float32) for name, stack in stacks.items()}
    cosine = unknown()
    if len(stacks) == 2:
        cosine = bilevel.cosines(stacks["forget_fn"], stacks["retain_fn"], eps=1e-8)[0, 0]
    return bilevel.Diagnostics(
        forget_loss=loss.get("forget_fn", unknown()),
        retain_loss=loss.get("retain_fn", unknown()),
        cosine=cosine.astype(jnp.float32),
        forget_norm=norm.get("forget_fn", unknown()),
        retain_norm=norm.get("retain_fn", unknown()),
        phi_norm=unknown(),
        curvature=unknown(),
        rho=unknown(),
    )
