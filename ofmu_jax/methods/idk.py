"""Refusals in place of answers: by likelihood, and by preference.

Maini et al. 2024, "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv 2401.06121; the second is
DPO (Rafailov et al. 2023, arXiv 2305.18290) with the refusal as the preferred answer.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax

from ofmu_jax.losses import language, preference
from ofmu_jax.losses.language import ApplyFn
from ofmu_jax.methods.base import BatchLoss
from ofmu_jax.methods.grad_diff import GradDiff
from ofmu_jax.methods.npo import Npo


@dataclasses.dataclass(frozen=True)
class IdkNll(GradDiff):
    """Minimises `gamma CE(refusal | forget question) + alpha CE(retain)`."""

    name: ClassVar[str] = "idk_nll"
    needs_refusals: ClassVar[bool] = True

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """Cross-entropy of the refusals."""
        return lambda params, batch: language.cross_entropy(apply_fn, params, batch["alternative"])

    def forget_count(self, batch: Any) -> jax.Array:
        """The refusals' tokens."""
        return language.scored_tokens(batch["alternative"])


@dataclasses.dataclass(frozen=True)
class IdkDpo(Npo):
    """NPO with a preferred answer: `gamma DPO(refusal over answer) + alpha CE(retain)`."""

    name: ClassVar[str] = "idk_dpo"
    needs_refusals: ClassVar[bool] = True

    def forget(self, apply_fn: ApplyFn) -> BatchLoss:
        """DPO, which is bounded below."""
        return functools.partial(preference.dpo, apply_fn, beta=self.beta)
