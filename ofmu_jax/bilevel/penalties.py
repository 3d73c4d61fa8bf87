"""The outer penalties as optax transformations that add to a retain gradient.

Both take the losses as closures, `forget_fn(params)` and `retain_fn(params)`, as extra arguments of
`update`, and `params` as the point where the gradient is taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel import curvature, objectives, schedules
from ofmu_jax.bilevel.curvature import Secant
from ofmu_jax.bilevel.gradients import Objective, Params
from ofmu_jax.bilevel.objectives import Similarity
from ofmu_jax.bilevel.safety import required_params
from ofmu_jax.bilevel.schedules import ScalarOrSchedule


class PenaltyState(NamedTuple):
    """State of the two penalties.

    Attributes:
      count: outer steps taken, int32.
      rho: the weight rho_k used last.
      curvature: s = <grad Phi, h> / |grad Phi|^2 where the penalty was last taken, h what stands
        for Hess Phi . grad Phi; NaN before the first step and where it is not measured. s > 0: the
        stationarity penalty opposes forgetting.
    """

    count: jax.Array  # type: ignore[assignment]
    rho: jax.Array
    curvature: jax.Array


def _init_penalty(params: Params) -> PenaltyState:
    dtype = curvature.scalar_dtype(params)
    return PenaltyState(
        jnp.zeros((), jnp.int32), jnp.zeros((), dtype), jnp.full((), jnp.nan, dtype)
    )


def _next_penalty(state: PenaltyState, rho: jax.Array, s: jax.Array | float) -> PenaltyState:
    return PenaltyState(
        optax.safe_increment(state.count),
        jnp.asarray(rho, state.rho.dtype),
        jnp.asarray(s, state.curvature.dtype),
    )


def add_stationarity_penalty(
    rho: ScalarOrSchedule,
    hvp: str = "exact",
    *,
    beta: ScalarOrSchedule = 0.0,
    similarity: str | Similarity = "cosine",
    gated: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adds `2 rho Hess Phi . grad Phi`, the gradient of rho |grad Phi|^2, to a retain gradient.

    Args:
      rho: penalty weight, scalar or schedule of the outer step.
      hvp: "exact", "finite_difference", or "trajectory"; the last takes the product from the
        extra argument `secant`, as `maximize_inner` keeps it, and evaluates nothing.
      beta: similarity weight in Phi.
      similarity: kind of similarity in Phi.
      gated: take rho as 0 where the curvature s is not negative, so that the term never opposes
        forgetting. What is added is then no longer the gradient of a function.

    Returns:
      A transformation whose `update` needs `params`, `forget_fn` and `retain_fn`.

    Raises:
      ValueError: for an unknown mode or a weight that is negative or not finite; at `update`, if
        the mode is "trajectory" and no secant with a product was given.
    """
    if hvp not in curvature.HVP_MODES:
        raise ValueError(f"hvp must be one of {curvature.HVP_MODES}, got {hvp!r}")
    sim = objectives.as_similarity(similarity)
    schedules.check_weight("rho", rho)
    schedules.check_weight("beta", beta)

    def evaluate(params: Params, weight: Any, forget_fn: Objective, retain_fn: Objective) -> Secant:
        def field(p: Params) -> Params:
            return objectives.grad_phi(forget_fn, retain_fn, p, beta=weight, similarity=sim)[0]

        ascent = field(params)
        # A field that is itself a finite difference is known to fewer digits.
        noisy = sim.hvp == "finite_difference" and not objectives.is_static_zero(weight)
        product = curvature.directional_derivative(
            field, params, ascent, mode=hvp, value=ascent, order=2 if noisy else 1
        )
        length = curvature.squared_norm(ascent)
        s = curvature.inner_product(ascent, product) / jnp.where(length > 0, length, 1.0)
        return Secant(product, s)

    def update(
        updates: Params,
        state: PenaltyState,
        params: Params | None = None,
        *,
        forget_fn: Objective,
        retain_fn: Objective,
        secant: Secant | None = None,
        **extra_args: Any,
    ) -> tuple[Params, PenaltyState]:
        del extra_args
        params = required_params(params, "add_stationarity_penalty")
        if hvp == "trajectory":
            if secant is None or secant.hvp is None:
                raise ValueError(
                    "hvp='trajectory' needs the extra argument `secant` from "
                    "maximize_inner(..., keep_secant='first' or 'last')"
                )
            term = secant
        else:
            term = evaluate(params, schedules.evaluate(beta, state.count), forget_fn, retain_fn)
        weight = jnp.asarray(schedules.evaluate(rho, state.count))
        if gated:
            weight = jnp.where(term.curvature < 0, weight, 0.0)
        added = jax.tree.map(lambda g, h: g + (2 * weight * h).astype(g.dtype), updates, term.hvp)
        return added, _next_penalty(state, weight, term.curvature)

    return optax.GradientTransformationExtraArgs(_init_penalty, update)


def add_value_gap_penalty(
    rho: ScalarOrSchedule,
    *,
    beta: ScalarOrSchedule = 0.0,
    similarity: str | Similarity = "cosine",
) -> optax.GradientTransformationExtraArgs:
    """Adds `-rho grad Phi`, the gradient of the value gap `rho (Phi(y_T) - Phi(theta))`.

    y_T is held constant, so no derivative of Phi past the first is needed (the value-function gap
    of Shen and Chen, "On Penalty-based Bilevel Gradient Descent Method", 2023, with Phi for the
    lower-level objective). An extra argument `secant` is read for the curvature diagnostic alone.

    Args:
      rho: penalty weight, scalar or schedule of the outer step.
      beta: similarity weight in Phi.
      similarity: kind of similarity in Phi.

    Raises:
      ValueError: for a weight that is negative or not finite.
    """
    sim = objectives.as_similarity(similarity)
    schedules.check_weight("rho", rho)
    schedules.check_weight("beta", beta)

    def update(
        updates: Params,
        state: PenaltyState,
        params: Params | None = None,
        *,
        forget_fn: Objective,
        retain_fn: Objective,
        secant: Secant | None = None,
        **extra_args: Any,
    ) -> tuple[Params, PenaltyState]:
        del extra_args
        params = required_params(params, "add_value_gap_penalty")
        weight = jnp.asarray(schedules.evaluate(rho, state.count))
        ascent, _ = objectives.grad_phi(
            forget_fn,
            retain_fn,
            params,
            beta=schedules.evaluate(beta, state.count),
            similarity=sim,
        )
        added = jax.tree.map(lambda g, a: g - (weight * a).astype(g.dtype), updates, ascent)
        s = jnp.nan if secant is None else secant.curvature
        return added, _next_penalty(state, weight, s)

    return optax.GradientTransformationExtraArgs(_init_penalty, update)


def no_penalty() -> optax.GradientTransformationExtraArgs:
    """Passes the retain gradient through, keeping the curvature diagnostic of `secant`."""

    def update(
        updates: Params,
        state: PenaltyState,
        params: Params | None = None,
        *,
        secant: Secant | None = None,
        **extra_args: Any,
    ) -> tuple[Params, PenaltyState]:
        del params, extra_args
        s = jnp.nan if secant is None else secant.curvature
        return updates, _next_penalty(state, jnp.zeros_like(state.rho), s)

    return optax.GradientTransformationExtraArgs(_init_penalty, update)
