"""The methods of unlearning by name."""

from ofmu_jax.methods.altpo import AltPo
from ofmu_jax.methods.base import BatchLoss, Method
from ofmu_jax.methods.ceu import Ceu
from ofmu_jax.methods.forget_losses import FORGET_LOSSES
from ofmu_jax.methods.grad_ascent import GradAscent
from ofmu_jax.methods.grad_diff import GradDiff
from ofmu_jax.methods.hyperparameters import Hyperparameters
from ofmu_jax.methods.idk import IdkDpo, IdkNll
from ofmu_jax.methods.lookup import named
from ofmu_jax.methods.matched import Matched
from ofmu_jax.methods.npo import Npo
from ofmu_jax.methods.ofmu import Ofmu
from ofmu_jax.methods.ofmu_plus import OfmuPlus
from ofmu_jax.methods.pdu import Pdu
from ofmu_jax.methods.retain_losses import RETAIN_LOSSES
from ofmu_jax.methods.rmu import Rmu
from ofmu_jax.methods.satimp import SatImp
from ofmu_jax.methods.scalarised import aggregated, weighted_sum
from ofmu_jax.methods.simnpo import SimNpo
from ofmu_jax.methods.undial import Undial
from ofmu_jax.methods.wga import Wga

_ALL: tuple[type[Method], ...] = (Ofmu, OfmuPlus, GradAscent, *FORGET_LOSSES.values())
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}


def get_method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
      InputError: if there is none; the message lists them all.
    """
    return named(name, METHODS)


__all__ = [
    "FORGET_LOSSES",
    "METHODS",
    "RETAIN_LOSSES",
    "AltPo",
    "BatchLoss",
    "Ceu",
    "GradAscent",
    "GradDiff",
    "Hyperparameters",
    "IdkDpo",
    "IdkNll",
    "Matched",
    "Method",
    "Npo",
    "Ofmu",
    "OfmuPlus",
    "Pdu",
    "Rmu",
    "SatImp",
    "SimNpo",
    "Undial",
    "Wga",
    "aggregated",
    "get_method",
    "weighted_sum",
]
