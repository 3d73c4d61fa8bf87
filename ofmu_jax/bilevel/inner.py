"""The inner loop as an optax transformation: T ascent steps on Phi.

The losses come as closures over their batches, `forget_fn(params)` and `retain_fn(params)`, as
extra arguments of `update`, in the way of `optax.contrib.sam`'s `grad_fn`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel import curvature, objectives, schedules
from ofmu_jax.bilevel.curvature import Secant
from ofmu_jax.bilevel.gradients import Objective, Params
from ofmu_jax.bilevel.objectives import PhiTerms, Similarity
from ofmu_jax.bilevel.safety import required_params, select
from ofmu_jax.bilevel.schedules import ScalarOrSchedule

SECANTS = ("none", "curvature", "first", "last")


def check_inner_steps(inner_steps: int, least: int = 1) -> None:
    """Raises ValueError unless `inner_steps` is a Python int >= `least`."""
    if not isinstance(inner_steps, int) or isinstance(inner_steps, bool):
        raise ValueError(
            f"inner_steps must be a Python int, got {type(inner_steps).__name__}; under "
            "optax.inject_hyperparams name it in static_args"
        )
    if inner_steps < least:
        raise ValueError(f"inner_steps must be >= {least}, got {inner_steps}")


class MaximizeInnerState(NamedTuple):
    """State of `maximize_inner`.

    Attributes:
      count: outer steps taken, int32.
      opt_state: state of the inner optimiser; it lives on from one outer step to the next.
      terms: the terms of Phi at the first iterate, theta_k.
      secant: curvature along the path, from two consecutive iterates.
    """

    count: jax.Array  # type: ignore[assignment]
    opt_state: optax.OptState
    terms: PhiTerms
    secant: Secant | None


def maximize_inner(
    inner: optax.GradientTransformation,
    beta: ScalarOrSchedule,
    inner_steps: int,
    *,
    similarity: str | Similarity = "cosine",
    keep_secant: str = "none",
) -> optax.GradientTransformationExtraArgs:
    """T ascent steps on Phi; the update is the displacement y_T - theta.

    `y <- y + inner(grad Phi(y))`, all on the batches that the closures hold. The inner optimiser is
    an ordinary optax minimiser; it is given -grad Phi, and -Phi as `value`. Incoming `updates` may
    be None; if not, they are added to the displacement.

    Args:
      inner: any optax transformation.
      beta: similarity weight >= 0, scalar or schedule of the outer step.
      inner_steps: T >= 1, a Python int.
      similarity: kind of similarity, or a `Similarity` for its details.
      keep_secant: what the state keeps of the curvature along the path: "none"; "curvature", s
        between the last two iterates; or also Hess Phi . grad Phi, of the "first" pair of iterates
        (at theta) or of the "last" (near y_T). A product needs T >= 2; s is NaN at T = 1.

    Returns:
      A transformation whose `update` needs `params`, `forget_fn` and `retain_fn`.

    Raises:
      ValueError: for T < 1, or T < 2 where a product is to be kept; for a beta that is negative or
        not finite; for an unknown name; for a T that is no multiple of `similarity.every`.
    """
    inner = optax.with_extra_args_support(inner)
    sim = objectives.as_similarity(similarity)
    schedules.check_weight("beta", beta)
    if keep_secant not in SECANTS:
        raise ValueError(f"keep_secant must be one of {SECANTS}, got {keep_secant!r}")
    keep_hvp = keep_secant in ("first", "last")
    if inner_steps % sim.every:
        raise ValueError(
            f"the similarity's every is {sim.every}; expected a divisor of inner_steps = "
            f"{inner_steps}"
        )
    # A trajectory product takes the difference of two inner gradients.
    check_inner_steps(inner_steps, least=2 if keep_hvp else 1)

    def init(params: Params) -> MaximizeInnerState:
        return MaximizeInnerState(
            count=jnp.zeros((), jnp.int32),
            opt_state=inner.init(params),
            terms=objectives.unknown_terms(params),
            secant=curvature.unknown_secant(params, keep_hvp=keep_hvp),
        )

    def update(
        updates: Params | None,
        state: MaximizeInnerState,
        params: Params | None = None,
        *,
        forget_fn: Objective,
        retain_fn: Objective,
        **extra_args: Any,
    ) -> tuple[Params, MaximizeInnerState]:
        del extra_args
        params = required_params(params, "maximize_inner")
        weight = schedules.evaluate(beta, state.count)
        every = 1 if objectives.is_static_zero(weight) else sim.every

        def step(carry: Any, t: jax.Array, anew: bool) -> Any:
            y, opt_state, (term, constant), terms, previous, kept = carry
            if anew:
                ascent, taken, found = objectives.grad_phi_and_term(
                    forget_fn, retain_fn, y, beta=weight, sim=sim
                )
                term = None if every == 1 else taken
                constant, value = found.forget_loss - found.phi, found.phi
                terms = select(t == 0, found, terms)
            else:
                ascent, loss = objectives.grad_phi_with_term(forget_fn, y, term)
                value = loss - constant
            step_updates, opt_state = inner.update(
                optax.tree.scale(-1, ascent), opt_state, y, value=-value
            )
            if keep_secant != "none":
                # At t = 0 there is no pair of iterates yet; the first is complete at t = 1.
                wanted = 1 if keep_secant == "first" else max(1, inner_steps - 1)
                gradient, displacement = previous
                pair = curvature.secant(gradient, displacement, ascent, keep_hvp=keep_hvp)
                kept = select(t == wanted, pair.curvature, kept)
                # The product takes the place of the gradient, which has then served its purpose.
                latest = select(t == wanted, pair.hvp, ascent) if keep_hvp else ascent
                previous = (
                    select(t > wanted, gradient, latest) if keep_secant == "first" else latest,
                    optax.tree.cast_like(step_updates, y),
                )
            y = optax.apply_updates(y, step_updates)
            return y, opt_state, (term, constant), terms, previous, kept

        def steps(carry: Any, start: jax.Array) -> tuple[Any, None]:
            carry = step(carry, start, anew=True)
            if every == 1:
                return carry, None
            in_between = start + jnp.arange(1, every)
            return jax.lax.scan(lambda c, t: (step(c, t, anew=False), None), carry, in_between)

        zeros, unknown = optax.tree.zeros_like(params), objectives.unknown_terms(params)
        carry: Any = (
            params,
            state.opt_state,
            (None if every == 1 else zeros, jnp.zeros_like(unknown.phi)),
            unknown,
            () if keep_secant == "none" else (zeros, zeros),
            curvature.unknown_secant(params, keep_hvp=False).curvature,
        )
        starts = jnp.arange(0, inner_steps, every)
        (y, opt_state, _, terms, previous, kept), _ = jax.lax.scan(steps, carry, starts)
        displacement = optax.tree.sub(y, params)
        if updates is not None:
            displacement = optax.tree.add(displacement, updates)
        return displacement, MaximizeInnerState(
            optax.safe_increment(state.count),
            opt_state,
            terms,
            curvature.Secant(previous[0] if keep_hvp else None, kept),
        )

    return optax.GradientTransformationExtraArgs(init, update)
