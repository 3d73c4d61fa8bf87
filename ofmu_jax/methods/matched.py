"""Forgetting up to the loss of answers that were never seen; new here."""

import dataclasses
import functools
from typing import ClassVar

from ofmu_jax.losses import matching
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff


@dataclasses.dataclass(frozen=True)
class Matched(GradDiff):
    """Minimises `gamma matching(forget) + alpha CE(retain)`.

    The matching loss asks the token losses of forget answers to be no lower, in distribution, than
    those that the original model gives to answers of a holdout set.
    """

    name: ClassVar[str] = "matched"

    @property
    def needs_unseen(self) -> bool:
        """For the distribution to match."""
        return True

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """`losses.matching.quantile_matching`."""
        return functools.partial(matching.quantile_matching, apply_fn)
