"""Schedules of the penalty weight rho_k, and a learning rate that follows it.

Each is an optax schedule, a function of the outer step k, so that anything which takes a schedule
(`ofmu`, `optax.inject_hyperparams`, a plot) takes these.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

Schedule: TypeAlias = Callable[[jax.Array], jax.Array]
ScalarOrSchedule: TypeAlias = float | jax.Array | Schedule


def _check(name: str, value: float | jax.Array, low: float, *, finite: bool = True) -> None:
    if isinstance(value, jax.core.Tracer):  # its number is not known yet
        return
    value = float(value)
    if math.isnan(value) or value < low or (finite and math.isinf(value)):
        raise ValueError(f"{name} must be a number >= {low:g}, got {value!r}")


def check_weight(name: str, value: ScalarOrSchedule) -> None:
    """Raises ValueError if a concrete scalar weight is negative, NaN or infinite.

    Schedules and traced values, whose numbers are not known yet, pass.
    """
    if not callable(value):
        _check(name, value, 0.0)


def evaluate(value: ScalarOrSchedule, count: jax.Array) -> float | jax.Array:
    """The value of a scalar or schedule at step `count`."""
    return value(count) if callable(value) else value


def constant(rho: float) -> Schedule:
    """rho_k = rho."""
    _check("rho", rho, 0.0)
    return lambda count: jnp.full((), rho)


def geometric(rho: float, growth: float, cap: float = math.inf) -> Schedule:
    """rho_k = min(rho * growth^k, cap), the increasing schedule of the paper.

    Without a cap rho overflows sooner or later, and with a fixed outer learning rate the iteration
    diverges long before: see `couple_to_rho`.

    Example:
      >>> schedule = geometric(1e-3, growth=10.0, cap=0.5)
      >>> [round(float(schedule(k)), 4) for k in (0, 1, 2, 3)]
      [0.001, 0.01, 0.1, 0.5]
    """
    _check("rho", rho, 0.0)
    _check("growth", growth, 0.0)
    _check("cap", cap, 0.0, finite=False)

    def schedule(count: jax.Array) -> jax.Array:
        grown = rho * jnp.power(jnp.asarray(growth, float), jnp.asarray(count))
        # A growth without end overflows, and 0 times that is NaN.
        return jnp.minimum(jnp.where(jnp.asarray(rho) > 0, grown, 0.0), cap)

    return schedule


def polynomial(rho: float, power: float = 1.0, cap: float = math.inf) -> Schedule:
    """rho_k = min(rho * (1 + k)^power, cap).

    Example:
      >>> [float(polynomial(0.5, power=2.0)(k)) for k in (0, 1, 2)]
      [0.5, 2.0, 4.5]
    """
    _check("rho", rho, 0.0)
    _check("power", power, 0.0)
    _check("cap", cap, 0.0, finite=False)
    return lambda count: jnp.minimum(rho * jnp.power(1.0 + jnp.asarray(count), power), cap)


def couple_to_rho(
    learning_rate: ScalarOrSchedule, rho: ScalarOrSchedule, curvature_ratio: float = 1.0
) -> Schedule:
    """eta_k = learning_rate_k / (1 + 2 rho_k curvature_ratio).

    For quadratics the outer step is stable only while eta_out < 2 / lambda_max(H_r + 2 rho H_f^2).
    As lambda_max(H_r + 2 rho H_f^2) <= lambda_max(H_r) (1 + 2 rho curvature_ratio) with
    curvature_ratio = lambda_max(H_f)^2 / lambda_max(H_r), a learning rate that is stable at rho = 0
    stays stable at every rho.

    Args:
      learning_rate: eta at rho = 0, scalar or schedule.
      rho: the schedule given to the penalty.
      curvature_ratio: lambda_max(H_f)^2 / lambda_max(H_r), units of 1 / rho.

    Example:
      >>> eta = couple_to_rho(0.1, geometric(1.0, growth=2.0))
      >>> [round(float(eta(k)), 4) for k in (0, 1, 2)]
      [0.0333, 0.02, 0.0111]
    """
    check_weight("learning_rate", learning_rate)
    check_weight("rho", rho)
    _check("curvature_ratio", curvature_ratio, 0.0)
    return lambda count: jnp.asarray(
        evaluate(learning_rate, count) / (1.0 + 2.0 * evaluate(rho, count) * curvature_ratio)
    )
