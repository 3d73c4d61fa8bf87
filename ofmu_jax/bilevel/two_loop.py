"""OFMU, the two-loop algorithm, as one optax transformation composed of smaller ones.

`maximize_inner` (T ascent steps on Phi), the retain gradient, a penalty of `penalties` and an outer
optax optimiser, in that order.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel import curvature, gradients, penalties
from ofmu_jax.bilevel.gradients import Objective, Params
from ofmu_jax.bilevel.inner import MaximizeInnerState, check_inner_steps, maximize_inner
from ofmu_jax.bilevel.objectives import (
    PhiTerms,
    Similarity,
    as_similarity,
    is_static_zero,
    unknown_terms,
)
from ofmu_jax.bilevel.penalties import PenaltyState
from ofmu_jax.bilevel.safety import all_finite, count_skips, required_params, select
from ofmu_jax.bilevel.schedules import ScalarOrSchedule

VARIANTS = ("endpoint", "lookahead", "anchor")
PENALTIES = ("stationarity", "gated", "value_gap", "none")


class Diagnostics(NamedTuple):
    """What the step's own computation shows, at no extra gradient; scalars.

    The terms are those at theta_k on the step's batches. Where `beta` is the number 0 nothing needs
    the retain gradient at theta_k: `retain_loss` and `retain_norm` are then those where the outer
    gradient is taken, and `cosine` is NaN. `curvature` is s where the penalty is
    taken (between the last two inner iterates if there is no stationarity penalty; NaN if T = 1
    leaves nothing to measure it with); `rho` is rho_k.
    """

    forget_loss: jax.Array
    retain_loss: jax.Array
    cosine: jax.Array
    forget_norm: jax.Array
    retain_norm: jax.Array
    phi_norm: jax.Array
    curvature: jax.Array
    rho: jax.Array


class OfmuState(NamedTuple):
    """State of `ofmu`: those of its parts, the diagnostics, and the count of skipped steps.

    Attributes:
      inner: state of `maximize_inner`, without its secant.
      penalty: state of the penalty.
      outer: state of the outer optimiser.
      diagnostics: of the last step, also where it was skipped.
      notfinite_count: consecutive steps skipped because their update was not finite, int32.
      total_notfinite: all such steps, int32.
    """

    inner: MaximizeInnerState
    penalty: PenaltyState
    outer: optax.OptState
    diagnostics: Diagnostics
    notfinite_count: jax.Array
    total_notfinite: jax.Array


def ofmu(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    beta: ScalarOrSchedule = 0.1,
    rho: ScalarOrSchedule = 1e-3,
    inner_steps: int = 5,
    variant: str = "endpoint",
    similarity: str | Similarity = "cosine",
    hvp: str = "exact",
    penalty: str = "stationarity",
) -> optax.GradientTransformationExtraArgs:
    """One step of the two-loop algorithm of OFMU.

    Inner, T times from y = theta_k:  y <- y + inner(grad Phi(y)).
    Outer:  theta_{k+1} = base + outer(grad L_r(x) + 2 rho_k Hess Phi(x) . grad Phi(x)),
    with, by variant, x the point where the gradient is taken and base where the step starts:

      * "endpoint": x = y_T, base = y_T;
      * "lookahead": x = y_T, base = theta_k;
      * "anchor": x = base = theta_k. The inner loop then has no effect on the step, so no more of
        it is run than the diagnostics (and a trajectory HVP) need.

    A step whose update is not finite is not applied: the update is zero, the state is kept, and
    `notfinite_count` and `total_notfinite` tell.

    Args:
      inner: optax transformation stepped along +grad Phi.
      outer: optax transformation fed the gradient of F.
      beta: similarity weight >= 0, scalar or schedule.
      rho: penalty weight >= 0, scalar or schedule.
      inner_steps: T >= 1, a Python int (a static argument for `optax.inject_hyperparams`).
      variant: "endpoint", "lookahead" or "anchor".
      similarity: "cosine", "squared_cosine", or a `Similarity` for its details.
      hvp: "exact", "finite_difference" or "trajectory", for the outer term.
      penalty: "stationarity" as published; "gated", the same only where s < 0; "value_gap"; "none"
        for no outer penalty.

    Returns:
      A transformation; `update(updates, state, params, forget_fn=..., retain_fn=...)`. `updates`
      is None or a gradient to be added to that of F.

    Raises:
      ValueError: for an unknown name or a number out of range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = ofmu(inner=optax.sgd(0.1), outer=optax.sgd(0.1), beta=0.1, rho=0.01, inner_steps=2)
      >>> params = {"w": jnp.array([1.0, -1.0])}
      >>> state = tx.init(params)
      >>> updates, state = tx.update(
      ...     None, state, params,
      ...     forget_fn=lambda p: -jnp.sum((p["w"] - 3.0) ** 2),
      ...     retain_fn=lambda p: jnp.sum(p["w"] ** 2))
      >>> bool(state.diagnostics.curvature < 0)  # Phi is concave along its gradient
      True

    References:
      Asif and Mohammadi Amiri, "OFMU: Optimization-Driven Framework for Machine Unlearning",
      arXiv 2509.22483.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    if penalty not in PENALTIES:
        raise ValueError(f"penalty must be one of {PENALTIES}, got {penalty!r}")
    if hvp not in curvature.HVP_MODES:
        raise ValueError(f"hvp must be one of {curvature.HVP_MODES}, got {hvp!r}")
    second_order = penalty in ("stationarity", "gated")
    trajectory = second_order and hvp == "trajectory"
    check_inner_steps(inner_steps, least=2 if trajectory else 1)
    keep = "last" if trajectory else "none" if second_order else "curvature"
    steps, sim = inner_steps, as_similarity(similarity)
    if variant == "anchor":
        steps, keep = (2, "first") if trajectory else (1, "none")
        sim = dataclasses.replace(sim, every=min(sim.every, steps))
    ascend = maximize_inner(inner, beta, steps, similarity=sim, keep_secant=keep)
    if second_order:
        add_penalty = penalties.add_stationarity_penalty(
            rho, hvp, beta=beta, similarity=similarity, gated=penalty == "gated"
        )
    elif penalty == "value_gap":
        add_penalty = penalties.add_value_gap_penalty(rho, beta=beta, similarity=similarity)
    else:
        add_penalty = penalties.no_penalty()
    outer = optax.with_extra_args_support(outer)

    def init(params: Params) -> OfmuState:
        return OfmuState(
            inner=_without_secant(ascend.init(params)),
            penalty=add_penalty.init(params),
            outer=outer.init(params),
            # Arrays of its own: a state is to be donated, and a buffer can be only once.
            diagnostics=_diagnostics(unknown_terms(params), add_penalty.init(params)),
            notfinite_count=jnp.zeros((), jnp.int32),
            total_notfinite=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Params | None,
        state: OfmuState,
        params: Params | None = None,
        *,
        forget_fn: Objective,
        retain_fn: Objective,
        **extra_args: Any,
    ) -> tuple[Params, OfmuState]:
        params = required_params(params, "ofmu")
        losses = {"forget_fn": forget_fn, "retain_fn": retain_fn}

        # Inner loop: y_T - theta_k.
        displacement, inner_state = ascend.update(None, state.inner, params, **losses)
        y = optax.apply_updates(params, displacement)

        # Outer gradient at x: that of L_r, plus that of the penalty.
        x = params if variant == "anchor" else y
        retain_losses, retain_grads = gradients.value_and_gradients(retain_fn, x)
        gradient = jax.tree.map(lambda g: jnp.mean(g, axis=0), retain_grads)
        terms = inner_state.terms
        if is_static_zero(beta):
            terms = terms._replace(
                retain_loss=jnp.mean(retain_losses).astype(terms.retain_loss.dtype),
                retain_norm=jnp.sqrt(curvature.squared_norm(gradient)).astype(terms.phi_norm.dtype),
            )
        if updates is not None:
            gradient = optax.tree.add(gradient, updates)
        gradient, penalty_state = add_penalty.update(
            gradient, state.penalty, x, secant=inner_state.secant, **losses
        )

        # Outer step from base.
        base = y if variant == "endpoint" else params
        step, outer_state = outer.update(gradient, state.outer, base, **losses, **extra_args)
        if variant == "endpoint":
            step = optax.tree.add(displacement, step)
        step = optax.tree.cast_like(step, params)

        finite = all_finite(step)
        kept = select(
            finite,
            (_without_secant(inner_state), penalty_state, outer_state),
            (state.inner, state.penalty, state.outer),
        )
        consecutive, total = count_skips(finite, state.notfinite_count, state.total_notfinite)
        return select(finite, step, optax.tree.zeros_like(step)), OfmuState(
            inner=kept[0],
            penalty=kept[1],
            outer=kept[2],
            diagnostics=_diagnostics(terms, penalty_state),
            notfinite_count=consecutive,
            total_notfinite=total,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _without_secant(state: MaximizeInnerState) -> MaximizeInnerState:
    """The secant serves its own step only; in the state it would cost a copy of the parameters."""
    return state._replace(secant=None)


def _diagnostics(terms: PhiTerms, penalty: PenaltyState) -> Diagnostics:
    return Diagnostics(
        terms.forget_loss,
        terms.retain_loss,
        terms.cosine,
        terms.forget_norm,
        terms.retain_norm,
        terms.phi_norm,
        penalty.curvature,
        penalty.rho,
    )
