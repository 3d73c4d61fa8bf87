"""Per-objective gradients, stacked on a leading objective axis, and how they relate.

Everything downstream (the similarity of `objectives`, the update rules of multi-objective
optimisation, `optax.experimental.aggregating`) consumes gradients in one form: a tree like the
parameters whose leaves carry one more leading axis, the objective axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

Params: TypeAlias = Any
"""Any pytree of arrays: a linen or haiku dict, an nnx state, a plain dict, a single array."""

LossFn: TypeAlias = Callable[[Params], jax.Array]
"""A loss with its batch already bound: parameters in, scalar out."""


@dataclasses.dataclass(frozen=True)
class StackedLoss:
    """Several objectives that share one loss function and one batch shape.

    Their gradients come from a single `jax.vmap(jax.grad(loss), in_axes=(None, 0))`.

    Attributes:
      loss: `(params, batch) -> scalar`.
      batches: a pytree of arrays whose leading axis, of length m, counts the objectives.

    Raises:
      ValueError: if the leaves of `batches` do not share a leading axis of length >= 1.
    """

    loss: Callable[[Params, Any], jax.Array]
    batches: Any

    def __post_init__(self) -> None:
        sizes = {x.shape[0] if jnp.ndim(x) else None for x in jax.tree.leaves(self.batches)}
        if len(sizes) != 1 or sizes & {None, 0}:
            raise ValueError(
                "StackedLoss.batches: every leaf needs the same leading objective axis of "
                f"length >= 1, got lengths {sorted(sizes, key=str)}"
            )


Objective: TypeAlias = LossFn | Sequence[LossFn] | StackedLoss
"""One loss, a sequence of losses, or a `StackedLoss`: one or several objectives."""


Computation: TypeAlias = Callable[[], Any]
"""Something to be computed, without arguments; a tree of arrays."""


def in_turn(computations: Sequence[Computation]) -> Any:
    """Results of like shapes and dtypes, stacked on a leading axis.

    The compiler for CPUs begins whatever is independent, and so holds what several gradients keep
    for their backward passes at once. There they are turns of a loop, which cannot overlap. Others
    order a program for its memory; to them a loop would cost copies of the results.
    """

    def loop() -> Any:
        return jax.lax.map(lambda k: jax.lax.switch(k, computations), jnp.arange(len(computations)))

    def unrolled() -> Any:
        return jax.tree.map(lambda *xs: jnp.stack(xs), *[compute() for compute in computations])

    return _by_platform(computations, unrolled, loop)


def sum_in_turn(computations: Sequence[Computation]) -> Any:
    """The sum of results of like shapes and dtypes; how they are taken is as with `in_turn`."""

    def loop() -> Any:
        def add(total: Any, k: jax.Array) -> tuple[Any, None]:
            return optax.tree.add(total, jax.lax.switch(k, computations)), None

        zeros = optax.tree.zeros_like(jax.eval_shape(computations[0]))
        return jax.lax.scan(add, zeros, jnp.arange(len(computations)))[0]

    def unrolled() -> Any:
        return functools.reduce(optax.tree.add, [compute() for compute in computations])

    return _by_platform(computations, unrolled, loop)


def _by_platform(
    computations: Sequence[Computation], unrolled: Computation, loop: Computation
) -> Any:
    if len(computations) == 1:
        return unrolled()
    return jax.lax.platform_dependent(default=unrolled, cpu=loop)


def losses_of(objective: LossFn | Sequence[LossFn]) -> list[LossFn]:
    """One loss, or several, as a list.

    Raises:
      ValueError: if there are none.
    """
    losses = [objective] if callable(objective) else list(objective)
    if not losses:
        raise ValueError("an objective needs at least one loss function, got an empty sequence")
    return losses


def value_and_gradients(objective: Objective, params: Params) -> tuple[jax.Array, Params]:
    """Losses and gradients of every objective at `params`.

    Those of a sequence are taken in turn, those of a `StackedLoss` at once.

    Returns:
      The losses, shape `(m,)`, float32 at least, and the gradients, a tree like `params` with a
      leading axis m.

    Example:
      >>> import jax.numpy as jnp
      >>> losses, grads = value_and_gradients(
      ...     [lambda p: jnp.sum(p**2), lambda p: jnp.sum(p)], jnp.array([1.0, 2.0]))
      >>> losses.tolist(), grads.tolist()
      ([5.0, 3.0], [[2.0, 4.0], [1.0, 1.0]])
    """
    if isinstance(objective, StackedLoss):
        of_all = jax.vmap(jax.value_and_grad(objective.loss), in_axes=(None, 0))
        return of_all(params, objective.batches)

    def of_one(loss: LossFn) -> tuple[jax.Array, Params]:
        value, gradient = jax.value_and_grad(loss)(params)
        return value.astype(scalar_dtype(params)), gradient

    return in_turn([functools.partial(of_one, loss) for loss in losses_of(objective)])


def values_and_gradients(
    forget: Objective, retain: Objective, params: Params
) -> tuple[tuple[jax.Array, Params], tuple[jax.Array, Params]]:
    """`value_and_gradients` of both, all in turn where neither is a `StackedLoss`."""
    if isinstance(forget, StackedLoss) or isinstance(retain, StackedLoss):
        return value_and_gradients(forget, params), value_and_gradients(retain, params)
    losses = losses_of(forget)
    found = value_and_gradients([*losses, *losses_of(retain)], params)
    count = len(losses)
    return jax.tree.map(lambda x: x[:count], found), jax.tree.map(lambda x: x[count:], found)


def scalar_dtype(params: Params) -> Any:
    """The dtype of scalars derived from `params`: float32, or float64 if a leaf has it."""
    return jnp.promote_types(optax.tree.dtype(params, "highest"), jnp.float32)


def inner_products(a: Params, b: Params) -> jax.Array:
    """Inner products `<a_i, b_j>` of two stacks of trees, shape `(m, n)`.

    Accumulated in float32 at least, whatever the dtype of the leaves.
    """

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
        x, y = x.astype(dtype), y.astype(dtype)
        # Contracting all axes but the first keeps each leaf's sharding; a reshape would not.
        axes = tuple(range(1, x.ndim))
        return jnp.tensordot(x, y, axes=(axes, axes))

    products = jax.tree.leaves(jax.tree.map(leaf, a, b))
    if not products:
        raise ValueError("the parameter tree has no leaves, so no gradient can be taken")
    return functools.reduce(jnp.add, products)


def gram(grads: Params) -> jax.Array:
    """Gram matrix `G_ij = <g_i, g_j>` of stacked gradients, shape `(m, m)`.

    Its diagonal holds the squared norms; a negative entry is a conflict between two objectives
    (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", definition 1).
    """
    return inner_products(grads, grads)


def norms(grads: Params, eps: float = 0.0) -> jax.Array:
    """Guarded norms `sqrt(|g_i|^2 + eps^2)` of stacked gradients, shape `(m,)`."""
    squares = [
        jnp.sum(
            jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))),
            axis=tuple(range(1, x.ndim)),
        )
        for x in jax.tree.leaves(grads)
    ]
    return jnp.sqrt(functools.reduce(jnp.add, squares) + eps**2)


def cosines(a: Params, b: Params, eps: float = 0.0) -> jax.Array:
    """Cosines between every gradient of `a` and every gradient of `b`, shape `(m, n)`.

    With `eps > 0` both norms are guarded as in `norms`, so a vanishing gradient gives 0.
    """
    return inner_products(a, b) / (norms(a, eps)[:, None] * norms(b, eps)[None, :])
