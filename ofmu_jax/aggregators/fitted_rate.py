"""A step's length from a parabola through the retain loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax import bilevel


class FittedRateState(NamedTuple):
    """State of `scale_by_fitted_rate`.

    Attributes:
      count: steps taken, int32.
      rate: the factor of the last step, float32.
    """

    count: jax.Array  # type: ignore[assignment]
    rate: jax.Array


def scale_by_fitted_rate(
    every: int = 10, max_change: float = 10.0
) -> optax.GradientTransformationExtraArgs:
    """Scales the incoming step u to the minimum, along it, of a parabola through the retain loss.

    Every few steps, the first included,

        eta <- eta/2 (L_- - L_+) / (L_+ - 2 L_0 + L_-)   with  L_+- = L_r(theta +- eta u),
        L_0 = L_r(theta),

    and on all steps the update is eta u. eta starts at 1, so u's own learning rate is the first
    probe; like optax's line searches this comes last in a chain. eta stays as it is where the
    parabola has no minimum ahead: it is concave or flat, it rises along u, or a loss is not finite.

    Args:
      every: steps from one fit to the next. The steps between evaluate no loss.
      max_change: bound > 1 on the factor by which one fit changes eta. Far beyond the probes the
        parabola is extrapolated; and an eta near 0, after a step that is not to the retain loss's
        liking, would leave differences of rounding to the next fit.

    Returns:
      A transformation whose `update` needs `params` and `retain_fn`, three evaluations per fit.

    Raises:
      ValueError: for a number out of range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = optax.chain(optax.sgd(0.1), scale_by_fitted_rate())
      >>> params, loss = jnp.array([3.0, 4.0]), lambda p: jnp.sum((p - 1.0) ** 2)
      >>> step, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, retain_fn=loss)
      >>> (params + step).round(4).tolist()  # the minimum, five times as far as sgd would go
      [1.0, 1.0]

    References:
      Bu et al. 2024, "Unlearning as multi-task optimization: A normalized gradient difference
      approach with an adaptive learning rate", arXiv 2410.22086, after Bu and Xu 2024, "Automatic
      gradient descent with generalized Newton's method", arXiv 2407.02772.
    """
    if every < 1:
        raise ValueError(f"every must be >= 1, got {every}")
    if not max_change > 1:
        raise ValueError(f"max_change must be > 1, got {max_change}")

    def init(params: bilevel.Params) -> FittedRateState:
        del params
        return FittedRateState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32))

    def update(
        updates: bilevel.Params,
        state: FittedRateState,
        params: bilevel.Params | None = None,
        *,
        retain_fn: bilevel.LossFn,
        **extra_args: Any,
    ) -> tuple[bilevel.Params, FittedRateState]:
        del extra_args
        if params is None:
            raise ValueError("scale_by_fitted_rate evaluates a loss, so update() needs `params`")

        def fit(rate: jax.Array) -> jax.Array:
            here = retain_fn(params)
            ahead = retain_fn(optax.apply_updates(params, _scale(rate, updates)))
            behind = retain_fn(optax.apply_updates(params, _scale(-rate, updates)))
            fall, bend = behind - ahead, ahead - 2 * here + behind
            usable = (fall > 0) & (bend > 0) & jnp.isfinite(fall) & jnp.isfinite(bend)
            change = fall / (2 * jnp.where(usable, bend, 1))
            change = jnp.where(usable, jnp.clip(change, 1 / max_change, max_change), 1)
            return (rate * change).astype(rate.dtype)

        rate = jax.lax.cond(state.count % every == 0, fit, lambda rate: rate, state.rate)
        return _scale(rate, updates), FittedRateState(optax.safe_increment(state.count), rate)

    return optax.GradientTransformationExtraArgs(init, update)


def _scale(rate: jax.Array, updates: bilevel.Params) -> bilevel.Params:
    return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
