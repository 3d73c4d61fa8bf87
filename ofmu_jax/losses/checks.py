"""Whether a number can be checked yet."""

from typing import Any

import jax


def is_known(*values: Any) -> bool:
    """Whether none of the values is a tracer, whose number the program gets only when it runs.

    A loss checks the hyperparameters that it knows; those that are arguments of a program are for
    the caller to check.

    >>> is_known(0.1, 2), jax.jit(lambda beta: is_known(0.1, beta))(2.0).item()
    (True, False)
    """
    return not any(isinstance(value, jax.core.Tracer) for value in values)
