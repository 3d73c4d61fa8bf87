"""Floating-point operations of a program, its loops counted as often as they run.

XLA's own count takes the body of a loop once, whatever its length. Here the loops of known length
are taken out of the program and counted by themselves, times their length; XLA counts what is
left, and the bodies. Unrolling the loops instead would count much the same, but the program then
grows with layers times inner steps, while this one stays as long as its source.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of `function(*args)`, as XLA counts them before it optimises.

    Nothing is compiled or run, so that the machine hardly matters. A multiply-add counts 2 and an
    elementwise operation 1; exponentials, logarithms and the like count 0, as XLA keeps them apart.
    What no result depends on is left out.

    A `scan`, hence also a `map` or a `fori_loop` of known length, counts its body times its
    length, at any depth and within `jit`, `remat`, gradients and custom derivatives. Two things
    cannot be known from the program: a `while_loop` that ends by its data counts once, and a `cond`
    the mean of its branches, which is right where a loop takes them in turn.

    Args:
      function: of arrays, or trees of them; must be traceable.
      *args: its arguments; `jax.ShapeDtypeStruct`s do as well as arrays.

    Returns:
      The count, as a float.

    >>> import jax.numpy as jnp
    >>> matrix = jax.ShapeDtypeStruct((10, 10), jnp.float32)
    >>> power = lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ x, jnp.eye(10))
    >>> round(count_flops(lambda x: power(x, 30), matrix) / count_flops(jnp.matmul, matrix, matrix))
    30
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _flops(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _flops(jaxpr: Jaxpr) -> float:
    loops = filter(_loops, jaxpr.eqns)
    return _flops_without_loops(jaxpr) + sum(map(_flops_of, loops))


def _loops(equation: JaxprEqn) -> bool:
    """Whether it is a loop of known length or a branching, or holds one."""
    return equation.primitive.name in ("scan", "cond") or any(
        map(_loops, (e for jaxpr in jaxprs_in_params(equation.params) for e in jaxpr.eqns))
    )


def _flops_of(equation: JaxprEqn) -> float:
    """Those of an equation that is or holds a loop or a branching."""
    counts = [_flops(jaxpr) for jaxpr in jaxprs_in_params(equation.params)]
    match equation.primitive.name:
        case "scan":
            return equation.params["length"] * sum(counts)
        case "cond":  # of its branches one runs
            return sum(counts) / len(counts)
    return sum(counts)


def _flops_without_loops(jaxpr: Jaxpr) -> float:
    """XLA's count of the rest of the program, to which the loops' results are arguments."""
    loops = [equation for equation in jaxpr.eqns if _loops(equation)]
    results = [v for equation in loops for v in equation.outvars]
    needed = [v for equation in loops for v in equation.invars if isinstance(v, Var)]
    rest = jaxpr.replace(
        constvars=(),
        invars=[*jaxpr.constvars, *jaxpr.invars, *results],
        outvars=[*jaxpr.outvars, *needed],
        eqns=[equation for equation in jaxpr.eqns if not _loops(equation)],
    )
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in rest.invars]
    lowered = jax.jit(jaxpr_as_fun(ClosedJaxpr(rest, ()))).lower(*shapes)
    analysis = cast(Mapping[str, float], lowered.cost_analysis())
    return analysis.get("flops", 0.0)  # absent where there are none
