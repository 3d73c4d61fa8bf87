"""Memory of a program, as its compiler plans it."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Memory(NamedTuple):
    """Bytes that a compiled program takes.

    Attributes:
      arguments: what it is given.
      results: what it returns, without what it writes over its arguments.
      temporaries: what it needs besides.
    """

    arguments: int
    results: int
    temporaries: int


def planned_memory(compiled: Any) -> Memory | None:
    """The memory of a program, from `jax.jit(f).lower(...).compile()`; None if it is not told.

    >>> program = jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((256,), "float32"))
    >>> planned_memory(program.compile())
    Memory(arguments=1024, results=1024, temporaries=0)
    """
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Memory(plan.argument_size_in_bytes, results, plan.temp_size_in_bytes)


def size_of(tree: Any) -> int:
    """Bytes of arrays, or of their shapes.

    >>> size_of({"a": np.zeros((2, 3), np.int32), "b": jax.ShapeDtypeStruct((4,), "bfloat16")})
    32
    """
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
