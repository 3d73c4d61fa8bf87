"""Every forget loss by name, for any update rule to take."""

from ofmu_jax.methods.altpo import AltPo
from ofmu_jax.methods.ceu import Ceu
from ofmu_jax.methods.grad_diff import GradDiff
from ofmu_jax.methods.idk import IdkDpo, IdkNll
from ofmu_jax.methods.matched import Matched
from ofmu_jax.methods.npo import Npo
from ofmu_jax.methods.pdu import Pdu
from ofmu_jax.methods.rmu import Rmu
from ofmu_jax.methods.satimp import SatImp
from ofmu_jax.methods.simnpo import SimNpo
from ofmu_jax.methods.undial import Undial
from ofmu_jax.methods.wga import Wga

_NAMED: tuple[type[GradDiff], ...] = (
    Npo,
    SimNpo,
    IdkNll,
    IdkDpo,
    AltPo,
    Rmu,
    Undial,
    Wga,
    SatImp,
    Ceu,
    Pdu,
    Matched,
)
FORGET_LOSSES: dict[str, type[GradDiff]] = {
    "cross_entropy": GradDiff,
    **{method.name: method for method in _NAMED},
}
"""The method whose `forget` it is; but for `cross_entropy` under that method's own name."""
