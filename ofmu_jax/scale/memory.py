"""Memory of a program, as its compiler plans it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np


class Memory(NamedTuple):
    """Bytes that a compiled program takes, on each device where there are several.

    Attributes:
      arguments: what it is given.
      results: what it returns, without what it writes over its arguments.
      temporaries: what it needs besides.
      code: the program itself, where it lies in the same memory.
    """

    arguments: int
    results: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def planned_memory(compiled: Any) -> Memory | None:
    """The memory of a program, from `jax.jit(f).lower(...).compile()`; None if it is not told.

    >>> program = jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((256,), "float32"))
    >>> planned_memory(program.compile())
    Memory(arguments=1024, results=1024, temporaries=0, code=0)
    """
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Memory(
        plan.argument_size_in_bytes,
        results,
        plan.temp_size_in_bytes,
        plan.generated_code_size_in_bytes,
    )


def size_of(tree: Any) -> int:
    """Bytes of arrays, or of their shapes.

    >>> size_of({"a": np.zeros((2, 3), np.int32), "b": jax.ShapeDtypeStruct((4,), "bfloat16")})
    32
    """
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def size_on_device(tree: Any) -> int:
    """Bytes of arrays, or of their shapes, on each of the devices over which they are spread.

    >>> size_on_device(jax.ShapeDtypeStruct((4,), "bfloat16"))  # whole: it names no sharding
    8
    """

    def size(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
