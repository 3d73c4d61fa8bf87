"""From the names of arrays' axes to the mesh: one table, and what follows from it."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ofmu_jax.errors import InputError

RULES: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    # Last, since an array uses each mesh axis once: activations are split by rows instead.
    ("embed", "fsdp"),
)
"""Which mesh axes split an axis of that name; axes without a rule are whole on every device."""


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
    """Programs traced within constrain what they name by `RULES` on that mesh.

    The constraints are part of a program; running it later needs no context.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def row_sharding(mesh: Mesh) -> NamedSharding:
    """That of a batch, whose leading axis is split by rows."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """That of an array which every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_rows(mesh: Mesh, rows: int, what: str = "a batch") -> None:
    """Raises InputError if so many rows cannot be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise InputError(
            f"{what} has {rows} rows; expected a multiple of {parts}, since mesh axes data "
            f"({mesh.shape['data']}) and fsdp ({mesh.shape['fsdp']}) split it by rows"
        )


def param_shardings(mesh: Mesh, axes: Any, shapes: Any) -> Any:
    """How parameters lie on a mesh.

    Args:
      mesh: with the axes of `mesh.AXES`.
      axes: a tree of `PartitionSpec`s of axis names, as from `models.logical_axes`.
      shapes: the parameters, or their shapes; a tree like `axes`.

    Returns:
      A tree of `NamedSharding`s.

    Raises:
      InputError: a mesh axis does not divide the axis that it is to split.
    """

    def sharding(path: Any, names: PartitionSpec, leaf: Any) -> NamedSharding:
        spec = cast(PartitionSpec, nn.logical_to_mesh_axes(tuple(names), RULES))
        for name, axis, size in zip(names, spec, leaf.shape, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise InputError(
                    f"mesh axis {axis} has {mesh.shape[axis]} devices; expected a divisor of "
                    f"{size}, the size of axis {name!r} of parameter {_dotted(path)}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        sharding, axes, shapes, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def shardings_like(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """How a tree that holds parts shaped like the parameters lies on a mesh.

    A leaf whose path ends with that of a parameter, and has its shape, lies as that parameter: so
    do the moments of an optimiser, at any depth. All others are whole on every device.

    Args:
      tree: arrays or shapes, such as an optimiser's state.
      params: the parameters, or their shapes.
      shardings: how they lie, as from `param_shardings`.
      mesh: the mesh.

    Returns:
      A tree of `NamedSharding`s like `tree`.
    """
    known = {}
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for (path, leaf), place in zip(leaves, jax.tree.leaves(shardings), strict=True):
        known[tuple(map(_key, path)), leaf.shape] = place
    whole = replicated(mesh)

    def find(path: Any, leaf: Any) -> NamedSharding:
        keys = tuple(map(_key, path))
        for start in range(len(keys) + 1):
            if (keys[start:], leaf.shape) in known:
                return known[keys[start:], leaf.shape]
        return whole

    return jax.tree_util.tree_map_with_path(find, tree)


def _key(entry: Any) -> str:
    return jax.tree_util.keystr((entry,), simple=True)


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
