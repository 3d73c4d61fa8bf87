"""Which tensor of a Hugging Face checkpoint holds which part of the parameter tree.

The decoder stacks layers and keeps head axes apart; a checkpoint has a matrix per layer, with its
outputs first, and some families store several projections in one.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import Params, init_params
from ofmu_jax.models.families import Family

Path: TypeAlias = tuple[str, ...]


class Piece(NamedTuple):
    """One layer's part of one leaf, as rows of a stored tensor.

    Attributes:
      leaf: keys of the leaf in the parameter tree.
      layer: which layer; None for leaves that are not stacked.
      shape: of the part in the tree.
      inputs: the number of its leading axes that a matrix contracts; 0 for vectors and tables,
        which are stored as they are.
    """

    leaf: Path
    layer: int | None
    shape: tuple[int, ...]
    inputs: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the part in the checkpoint."""
        if self.inputs:
            inner, outer = self.shape[: self.inputs], self.shape[self.inputs :]
            return math.prod(outer), math.prod(inner)
        # Biases of head projections have two axes in the tree.
        return (math.prod(self.shape),) if self.leaf[-1].endswith("_bias") else self.shape

    def from_stored(self, value: np.ndarray) -> np.ndarray:
        """The part as in the tree."""
        return (value.T if self.inputs else value).reshape(self.shape)

    def to_stored(self, value: np.ndarray) -> np.ndarray:
        """The part as in the checkpoint."""
        if not self.inputs:
            return value.reshape(self.stored_shape)
        return value.reshape(*reversed(self.stored_shape)).T

    def of(self, params: Params) -> jax.Array:
        """The part, out of a tree."""
        leaf = get(params, self.leaf)
        return leaf if self.layer is None else leaf[self.layer]


def get(tree: Mapping[str, Any], path: Path) -> Any:
    """The node of nested dicts at a path."""
    for key in path:
        tree = tree[key]
    return tree


def abstract_params(config: DecoderConfig) -> Params:
    """The shapes and dtypes of `init_params`."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def leaf_paths(tree: Any) -> list[Path]:
    """The key paths of all leaves of nested dicts."""
    return [
        tuple(str(key.key) for key in path)
        for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def matrix_inputs(path: Path) -> int:
    """How many axes of a layer's leaf a matrix product contracts; 0 for what is no matrix."""
    if path[-1] == "o_proj":
        return 2
    return int(path[-1].endswith("_proj"))


def stored_tensors(config: DecoderConfig, family: Family) -> dict[str, list[Piece]]:
    """The tensors of a checkpoint, each with the pieces that its rows are made of.

    Args:
      config: the decoder's shape.
      family: how its tensors are named.

    Returns:
      From the name of each tensor to its pieces in order; all but fused ones have one.
    """
    shapes = abstract_params(config)
    pieces: dict[str, list[Piece]] = {}
    for path in leaf_paths(shapes):
        shape = get(shapes, path).shape
        layers: list[int | None] = [None]
        if path[0] == "layers":
            shape, layers = shape[1:], list(range(config.num_hidden_layers))
        for layer in layers:
            piece = Piece(path, layer, shape, matrix_inputs(path))
            pieces[_name(path, layer, family)] = [piece]
    for fused, parts in family.fused.items():
        for layer in range(config.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            names = [f"{prefix}{part}.weight" for part in parts]
            pieces[f"{prefix}{fused}.weight"] = [pieces.pop(name)[0] for name in names]
    return pieces


def _name(path: Path, layer: int | None, family: Family) -> str:
    """The checkpoint's name of a leaf: module, then `weight` or `bias`."""
    keys, kind = list(path), "weight"
    if layer is not None:
        keys = keys[1:]
    if keys[-1] in ("weight", "bias"):
        kind = keys.pop()
    elif keys[-1].endswith("_bias"):
        keys[-1], kind = keys[-1].removesuffix("_bias"), "bias"
    module = ".".join(keys)
    module = family.rename.get(module, module)
    if layer is not None:
        return f"model.layers.{layer}.{module}.{kind}"
    return f"{module}.{kind}" if module == "lm_head" else f"model.{module}.{kind}"
