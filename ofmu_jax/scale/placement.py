"""Arrays to the mesh and back, whichever processes its devices belong to."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from ofmu_jax.scale.rules import check_rows, row_sharding


def own_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which rows of a batch lie on devices of this process, ascending.

    >>> from ofmu_jax.scale.mesh import make_mesh
    >>> own_rows(make_mesh(), 3)
    array([0, 1, 2])

    Raises:
      InputError: the mesh does not divide the rows.
    """
    check_rows(mesh, rows)
    parts = row_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts]))


def place_rows(mesh: Mesh, batch: Any, own: np.ndarray, rows: int) -> Any:
    """A batch of all processes, of which each gives its part.

    Args:
      mesh: the mesh.
      batch: a tree of arrays whose leading axis is that of `own`.
      own: the rows that this process gives, as from `own_rows`.
      rows: B, of the whole batch.

    Returns:
      The tree with (B, ...) arrays, split by rows.
    """
    sharding = row_sharding(mesh)
    position = np.full(rows, -1)
    position[own] = np.arange(len(own))

    def place(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return x[position[index[0]]]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has whole, laid out; each device gets its part alone.

    Args:
      tree: of arrays.
      shardings: a tree like it, or one sharding for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree, shardings)


def fetch(tree: Any) -> Any:
    """The tree as whole numpy arrays, on every process; all of them must call it.

    >>> fetch({"a": jax.numpy.ones(2)})
    {'a': array([1., 1.], dtype=float32)}
    """

    def get(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(get, tree)
