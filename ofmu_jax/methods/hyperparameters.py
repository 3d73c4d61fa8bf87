"""Hyperparameters as plain checked values, some of which may be arrays of a program."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import jax

from ofmu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of a method, whose `name` subclasses state."""

    name: ClassVar[str]

    def require(self, field: str, condition: bool, expected: str) -> None:
        """Raises InputError naming `field` unless the condition holds and the value is finite."""
        value = getattr(self, field)
        if not condition or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"method {self.name}: {field} must be {expected}, got {value!r}")

    def with_numbers(self, numbers: Mapping[str, jax.Array]) -> Self:
        """The same method with arrays, tracers too, in place of some of its real numbers.

        A program that takes a method's numbers as arguments serves all their values, by `jax.vmap`
        several at once. The numbers are not checked: build a method of each value for that.

        Example:
          >>> import jax, optax
          >>> from ofmu_jax.methods import Npo
          >>> def rate(beta):
          ...     return Npo().with_numbers({"beta": beta}).beta
          >>> jax.vmap(rate)(jax.numpy.array([0.5, 2.0])).tolist()
          [0.5, 2.0]
        """
        twin = copy.copy(self)
        for name, value in numbers.items():
            object.__setattr__(twin, name, value)
        return twin
