"""Search spaces, and the points that are tried."""

import math
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import qmc

from ofmu_jax.errors import InputError

Space: TypeAlias = Mapping[str, Any]
"""Per hyperparameter `[low, high]`, drawn log-uniformly; `{"uniform": [low, high]}`; or
`{"choices": [...]}`."""
Point: TypeAlias = dict[str, Any]

DRAWS = ("sobol", "random")


def check_space(space: Any, where: str) -> None:
    """Checks the form of a search space.

    Raises:
      InputError: it is empty, or an entry is none of the three kinds.
    """
    if not isinstance(space, Mapping) or not space:
        raise InputError(f"{where}: the search space is {space!r}; expected at least one parameter")
    for name, values in space.items():
        at = f"{where}: the range of {name}"
        if isinstance(values, Mapping) and set(values) == {"choices"}:
            if not isinstance(values["choices"], list) or not values["choices"]:
                raise InputError(f"{at} is {values!r}; expected at least one choice")
        elif isinstance(values, Mapping) and set(values) == {"uniform"}:
            _check_bounds(values["uniform"], -math.inf, at)
        elif isinstance(values, list):
            _check_bounds(values, 0.0, at)
        else:
            raise InputError(
                f"{at} is {values!r}; expected [low, high], "
                "{uniform: [low, high]} or {choices: [...]}"
            )


def _check_bounds(bounds: Any, above: float, at: str) -> None:
    numbers = isinstance(bounds, list) and all(
        isinstance(b, int | float) and not isinstance(b, bool) for b in bounds
    )
    if not (numbers and len(bounds) == 2 and above < bounds[0] <= bounds[1] < math.inf):
        least = "0 < " if above == 0 else ""
        raise InputError(f"{at} is {bounds!r}; expected [low, high] with {least}low <= high")


def corners(space: Space) -> list[Point]:
    """Points that show each bound and each choice at least once, to check a space with."""
    values = {
        name: entry["choices"] if isinstance(entry, Mapping) and "choices" in entry else bounds
        for name, entry in space.items()
        for bounds in [
            entry["uniform"] if isinstance(entry, Mapping) and "uniform" in entry else entry
        ]
    }
    most = max(map(len, values.values()))
    return [{name: v[min(i, len(v) - 1)] for name, v in values.items()} for i in range(most)]


def draw_points(space: Space, count: int, kind: str, label: str) -> list[Point]:
    """The first `count` points of a sequence that belongs to the space and the label.

    Args:
      space: the search space, checked.
      count: how many; more of them begin with the same ones.
      kind: "sobol", a scrambled Sobol sequence (Owen 1998), which fills the space more evenly;
        "random", independent draws.
      label: whose; another label has another sequence.

    Returns:
      Points; real numbers have three significant digits.

    >>> space = {"learning_rate": [1e-4, 1e-2], "kind": {"choices": ["a", "b"]}}
    >>> points = draw_points(space, 4, "sobol", "npo")
    >>> sorted(p["kind"] for p in points), points[:2] == draw_points(space, 2, "sobol", "npo")
    (['a', 'a', 'b', 'b'], True)
    """
    seed = zlib.crc32(label.encode())
    if kind == "sobol":
        sequence = qmc.Sobol(len(space), scramble=True, rng=np.random.default_rng(seed))
        unit = sequence.random_base2(max(count - 1, 1).bit_length())[:count]
    else:
        unit = np.random.default_rng(seed).random((count, len(space)))
    return [
        {name: _value(entry, u) for (name, entry), u in zip(space.items(), row, strict=True)}
        for row in unit
    ]


def _value(entry: Any, u: float) -> Any:
    if isinstance(entry, Mapping) and "choices" in entry:
        choices = entry["choices"]
        return choices[min(int(u * len(choices)), len(choices) - 1)]
    if isinstance(entry, Mapping):
        low, high = entry["uniform"]
        value = low + u * (high - low)
    else:
        low, high = entry
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    # Rounding may lead past a bound.
    return min(max(float(f"{value:.3g}"), float(low)), float(high))
