"""What a run trains: all parameters, or low-rank adapters beside frozen ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ofmu_jax.models import Lora, apply_lora, init_lora


class TrainState(NamedTuple):
    """What a step maps to itself and a checkpoint holds."""

    params: Any
    opt_state: Any


class Trainable(NamedTuple):
    """A reparametrisation of a model's parameters.

    Attributes:
      params: what is trained; free to be donated.
      frozen: what is not, an argument of the step rather than a constant in its program.
      full: from `params` and `frozen` to the model's parameters.
    """

    params: Any
    frozen: Any
    full: Callable[[Any, Any], Any]


def trainable(params: Any, lora: Lora | None, seed: int, *, take: bool = False) -> Trainable:
    """Sets up training of a model's parameters.

    Args:
      params: the parameters, which are left as they are.
      lora: train these adapters instead of all.
      seed: draws the adapters.
      take: train the parameters themselves, not a copy: they are gone after the first step.

    Raises:
      InputError: a LoRA target matches no matrix.
    """
    if lora is None:
        trained = params if take else jax.tree.map(lambda x: x.copy(), params)
        return Trainable(trained, (), full_params(lora))
    adapters = init_lora(params, lora, jax.random.key(seed))
    return Trainable(adapters, params, full_params(lora))


def full_params(lora: Lora | None) -> Callable[[Any, Any], Any]:
    """The `full` of a `Trainable`."""
    if lora is None:
        return lambda p, frozen: p
    return lambda p, frozen: apply_lora(frozen, p, lora.scale)
