"""What holds a model on the retain set, by name."""

from collections.abc import Callable

import jax

from ofmu_jax.losses import distillation, language

RETAIN_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "nll": language.cross_entropy,
    "kl": distillation.kl_divergence,
}
"""`(apply_fn, params, batch) -> scalar`; "kl" needs the batch's `reference_logits`."""
