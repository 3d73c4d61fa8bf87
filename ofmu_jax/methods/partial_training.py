"""An update rule that trains parts of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ofmu_jax import bilevel


def train_only(
    tx: optax.GradientTransformationExtraArgs,
    trained: Callable[[bilevel.Params], bilevel.Params],
) -> optax.GradientTransformationExtraArgs:
    """`tx` on some entries of the parameters; the others stay exactly as they are.

    The wrapped transformation sees losses that do not depend on the other entries: those entries
    have no part in gradients, norms and clipping, and no update of them, weight decay included, is
    seen by a loss or returned.

    Args:
      tx: its `update` takes `forget_fn` and `retain_fn`.
      trained: from the parameters to a tree of their structure, of booleans that broadcast to each
        leaf.
    """

    def init(params: bilevel.Params) -> optax.OptState:
        trained(params)
        return tx.init(params)

    def update(
        updates: bilevel.Params | None,
        state: optax.OptState,
        params: bilevel.Params | None = None,
        **losses: Any,
    ) -> tuple[bilevel.Params, optax.OptState]:
        kept = trained(params)

        def restricted(loss: bilevel.LossFn) -> bilevel.LossFn:
            return lambda p: loss(jax.tree.map(jnp.where, kept, p, params))

        def masked(tree: bilevel.Params) -> bilevel.Params:
            return jax.tree.map(lambda keep, u: jnp.where(keep, u, jnp.zeros_like(u)), kept, tree)

        if updates is not None:
            updates = masked(updates)
        losses = {name: restricted(loss) for name, loss in losses.items()}
        step, state = tx.update(updates, state, params, **losses)
        return masked(step), state

    return optax.GradientTransformationExtraArgs(init, update)
