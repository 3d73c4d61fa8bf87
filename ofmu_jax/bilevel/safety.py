"""Steps that are not finite are never applied."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ofmu_jax.bilevel.gradients import Params


def all_finite(tree: Any) -> jax.Array:
    """Whether every entry of every leaf is finite; a boolean scalar."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def select(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """One of two trees of the same structure, leaf by leaf, by a boolean scalar."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def count_skips(
    finite: jax.Array, consecutive: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The counts of skipped steps, consecutive and in all, after one more step."""
    return (
        jnp.where(finite, 0, optax.safe_increment(consecutive)),
        jnp.where(finite, total, optax.safe_increment(total)),
    )


def required_params(params: Params | None, name: str) -> Params:
    """`params`, or the error for a transformation that cannot do without."""
    if params is None:
        raise ValueError(f"{name} evaluates losses, so update() needs `params`; got None")
    return params


class SkipNonfiniteState(NamedTuple):
    """State of `skip_nonfinite`.

    Attributes:
      inner_state: state of the wrapped transformation after its last finite step.
      notfinite_count: consecutive skipped steps, int32.
      total_notfinite: all skipped steps, int32.
    """

    inner_state: optax.OptState
    notfinite_count: jax.Array
    total_notfinite: jax.Array


def skip_nonfinite(
    inner: optax.GradientTransformation, *, incoming: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Replaces an update that is not finite by zero and keeps the wrapped state as it was.

    Unlike `optax.apply_if_finite` this looks at the outcome and never gives in: how many skips in a
    row are too many is the training loop's decision.

    Args:
      inner: the transformation.
      incoming: look at the incoming gradient too, for an `inner` that keeps it for later, such as
        `optax.MultiSteps`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = skip_nonfinite(optax.sgd(0.1))
      >>> updates, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.zeros(2)))
      >>> updates.tolist(), int(state.notfinite_count)
      ([0.0, 0.0], 1)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SkipNonfiniteState:
        # Two arrays, not one twice: a state is to be donated, and a buffer can be only once.
        return SkipNonfiniteState(
            inner.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        )

    def update(
        updates: Params,
        state: SkipNonfiniteState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[Params, SkipNonfiniteState]:
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        finite = all_finite((new, updates) if incoming else new)
        return select(finite, new, optax.tree.zeros_like(new)), SkipNonfiniteState(
            select(finite, inner_state, state.inner_state),
            *count_skips(finite, state.notfinite_count, state.total_notfinite),
        )

    return optax.GradientTransformationExtraArgs(init, update)
