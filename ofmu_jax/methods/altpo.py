"""Alternate preference optimisation (Mekala et al. 2024, arXiv 2409.13474)."""

import dataclasses
from typing import ClassVar

from ofmu_jax.methods.idk import IdkDpo


@dataclasses.dataclass(frozen=True)
class AltPo(IdkDpo):
    """NPO with a preferred answer: `gamma DPO(alternative over answer) + alpha CE(retain)`.

    An alternative is another answer to the same question that could be true: from the file
    --alternatives, or else one that the original model itself gives. The authors search learning
    rates of 1e-5, 2e-5 and 5e-5, beta of 0.05, 0.1 and 0.5, and alpha of 1, 2 and 5, for 2 epochs
    of 7B models.
    """

    name: ClassVar[str] = "altpo"
    needs_refusals: ClassVar[bool] = False
    needs_alternatives: ClassVar[bool] = True
