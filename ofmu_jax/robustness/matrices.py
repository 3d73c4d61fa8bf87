"""The weight matrices of a decoder, each seen as (layers, inputs, outputs)."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, logical_axes

Change = Callable[[jax.Array, int], jax.Array]


def map_matrices(change: Change, config: DecoderConfig, params: Params) -> Params:
    """Applies a change to every weight matrix, embeddings included; norms and biases stay.

    An output is what one column of weights makes of all inputs: a feature of a projection, or a
    token's row of an embedding table.

    Args:
      change: from a float32 matrix (L, inputs, outputs), L = 1 outside the blocks, and its number
        to one of the same shape.
      config: the shape of the model.
      params: its parameters.

    Returns:
      The parameters, in their own types.
    """
    leaves, tree = jax.tree.flatten(params)
    axes = jax.tree.leaves(logical_axes(config), is_leaf=lambda x: isinstance(x, jax.P))
    changed = [
        _changed(change, leaf, tuple(names), number) if _is_matrix(tuple(names)) else leaf
        for number, (leaf, names) in enumerate(zip(leaves, axes, strict=True))
    ]
    return cast(Params, jax.tree.unflatten(tree, changed))


def _is_matrix(names: tuple[str | None, ...]) -> bool:
    return "embed" in names and len([name for name in names if name != "layers"]) > 1


def _changed(
    change: Change, leaf: jax.Array, names: tuple[str | None, ...], number: int
) -> jax.Array:
    layers = [axis for axis, name in enumerate(names) if name == "layers"]
    embed = names.index("embed")
    # Projections back into the residual stream have it as their last axis, and as their output.
    writes = "vocab" not in names and embed == len(names) - 1
    rest = [axis for axis in range(len(names)) if axis != embed and axis not in layers]
    order = [*layers, *rest, embed] if writes else [*layers, embed, *rest]
    moved = jnp.transpose(leaf, order)
    depth, width = (leaf.shape[layers[0]] if layers else 1), leaf.shape[embed]
    shape = (depth, -1, width) if writes else (depth, width, -1)
    new = change(moved.astype(jnp.float32).reshape(shape), number)
    back = [order.index(axis) for axis in range(len(order))]
    return jnp.transpose(new.reshape(moved.shape), back).astype(leaf.dtype)
