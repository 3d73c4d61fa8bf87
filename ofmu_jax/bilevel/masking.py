"""Losses for use under `optax.masked`, which hides the frozen leaves from what it wraps."""

from typing import Any

import jax
import optax

from ofmu_jax.bilevel.gradients import LossFn, Params


def with_frozen(loss: LossFn, params: Params) -> LossFn:
    """A loss of the visible leaves alone, the hidden ones being taken from `params`.

    `optax.masked(ofmu(...), mask)` hands its wrapped transformation a tree in which frozen leaves
    are `optax.MaskedNode()`; a loss cannot be evaluated on that.

    Args:
      loss: a loss of the full parameter tree.
      params: the full tree; gradients do not flow into its hidden leaves.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"frozen": jnp.array(2.0), "trained": jnp.array(3.0)}
      >>> loss = with_frozen(lambda p: p["frozen"] * p["trained"], params)
      >>> float(loss({"frozen": optax.MaskedNode(), "trained": jnp.array(5.0)}))
      10.0
    """

    def is_masked(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    def visible_loss(visible: Params) -> jax.Array:
        return loss(
            jax.tree.map(lambda v, p: p if is_masked(v) else v, visible, params, is_leaf=is_masked)
        )

    return visible_loss
