"""Losses that prefer another answer to the one that is to be forgotten.

A forget batch holds that answer as `alternative`, a batch of its own of the same questions.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.losses.checks import is_known
from ofmu_jax.losses.language import ApplyFn, sequence_log_prob


def dpo(apply_fn: ApplyFn, params: Any, batch: Mapping[str, Any], beta: float) -> jax.Array:
    """Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290, eq. 7), scaled.

    `-(2 / beta) mean log sigmoid(beta [(s_alt - s_alt,ref) - (s - s_ref)])`, with s the summed
    log-probability of an answer, and `ref` the model before unlearning. Without its first term it
    is NPO.

    Args:
      apply_fn: maps parameters and tokens to logits.
      params: the model's parameters.
      batch: `tokens`, `scored` (B, S) and `reference_log_prob` (B,) of the true answers, and the
        same of the preferred ones under `alternative`.
      beta: inverse temperature, > 0.

    Returns:
      A scalar, >= 0.

    Raises:
      InputError: `beta` is not positive.
    """
    if is_known(beta) and not beta > 0:
        raise InputError(f"dpo beta is {beta}; expected > 0")
    gains = [
        sequence_log_prob(apply_fn, params, rows) - rows["reference_log_prob"]
        for rows in (batch["alternative"], batch)
    ]
    return -2.0 / beta * jnp.mean(jax.nn.log_sigmoid(beta * (gains[0] - gains[1])))
