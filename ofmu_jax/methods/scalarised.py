"""Linear scalarisation: one descent step on a weighted sum of forget and retain losses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax import bilevel


class ScalarisedState(NamedTuple):
    """State of `weighted_sum`: that of the optimiser, and the last step's diagnostics."""

    opt_state: optax.OptState
    diagnostics: bilevel.Diagnostics


def weighted_sum(
    optimizer: optax.GradientTransformation, forget_weight: float, retain_weight: float
) -> optax.GradientTransformationExtraArgs:
    """Feeds `forget_weight grad L_f + retain_weight grad L_r` to an optax optimiser.

    The two gradients are taken apart, which costs what the gradient of the sum costs, as the
    batches are two, and shows their norms and their cosine. An objective of weight 0 is not
    evaluated; its diagnostics are NaN.

    Args:
      optimizer: any optax transformation.
      forget_weight: weight of the forget loss, which is minimised.
      retain_weight: weight of the retain loss.

    Returns:
      A transformation whose `update` takes `forget_fn` and `retain_fn`, as `bilevel.ofmu` does.
    """
    weights = {"forget_fn": forget_weight, "retain_fn": retain_weight}
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: bilevel.Params) -> ScalarisedState:
        return ScalarisedState(optimizer.init(params), _diagnostics({}))

    def update(
        updates: bilevel.Params | None,
        state: ScalarisedState,
        params: bilevel.Params | None = None,
        **losses: Any,
    ) -> tuple[bilevel.Params, ScalarisedState]:
        evaluated = {
            name: jax.value_and_grad(losses[name])(params)
            for name, weight in weights.items()
            if weight
        }
        terms = [optax.tree.scale(weights[name], grad) for name, (_, grad) in evaluated.items()]
        if updates is not None:
            terms.append(updates)
        gradient = jax.tree.map(lambda *xs: sum(xs[1:], xs[0]), *terms)
        step, opt_state = optimizer.update(gradient, state.opt_state, params, **losses)
        return step, ScalarisedState(opt_state, _diagnostics(evaluated))

    return optax.GradientTransformationExtraArgs(init, update)


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
