"""Programs compiled, sized and timed in turn, in units of one gradient."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ofmu_jax.scale import count_flops, planned_memory


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to be measured.

    Attributes:
      name: what the tables say.
      function: pure, of `arguments`.
      arguments: trees of arrays.
      donated: whether the first argument is donated and replaced by the first result.
      out_shardings: of the results, if they are to lie in a certain way.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: bool = False
    out_shardings: Any = None


class Compiled:
    """A case with its program; calling it takes one step and gives the seconds."""

    def __init__(self, case: Case) -> None:
        self.name, self.donated = case.name, case.donated
        # A donated argument is gone after the call, and cases share their parameters.
        copies = [jax.tree.map(lambda x: x.copy(), case.arguments[0])] if case.donated else []
        self.arguments = [*copies, *case.arguments[len(copies) :]]
        lying = {} if case.out_shardings is None else {"out_shardings": case.out_shardings}
        jitted = jax.jit(case.function, donate_argnums=(0,) if case.donated else (), **lying)
        began = time.perf_counter()
        self.program = jitted.lower(*self.arguments).compile()
        self.compile_seconds = time.perf_counter() - began
        self.memory = planned_memory(self.program)

    def __call__(self) -> float:
        began = time.perf_counter()
        results = jax.block_until_ready(self.program(*self.arguments))
        seconds = time.perf_counter() - began
        if self.donated:
            self.arguments[0] = results[0]
        return seconds


def measure(
    unit: Case, cases: Sequence[Case], repeats: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Sizes and times of the cases.

    Every round takes all cases in turn, each between two gradients whose mean is its unit, so that
    a machine that drifts slows both. One more gradient, not timed, comes before the second: just
    after a program that takes much memory a gradient is slow, and as a unit would flatter it.

    Args:
      unit: the gradient.
      cases: the others.
      repeats: rounds; 0 times nothing.
      say: told what is done.

    Returns:
      `unit` and, by name, `rows`: `flops` (in those of the unit), `temporaries` (bytes),
      `compile_seconds`, `seconds`, and `g-e`, the quotients by the unit's time.
    """
    say(f"compiling {unit.name}")
    gradient = Compiled(unit)
    flops = count_flops(unit.function, *unit.arguments)
    rows: dict[str, Any] = {}
    programs = []
    for case in cases:
        say(f"compiling {case.name}")
        # Before it is compiled: the program's own arguments are gone once it has run.
        operations = count_flops(case.function, *case.arguments) / flops
        programs.append(Compiled(case))
        rows[case.name] = _sizes(programs[-1]) | {"flops": operations, "seconds": [], "g-e": []}
    units = []
    for program in [gradient, *programs] if repeats else []:
        program()
    for index in range(repeats):
        say(f"round {index + 1} of {repeats}")
        gradient()
        before = gradient()
        for program in programs:
            seconds = program()
            gradient()
            after = gradient()
            rows[program.name]["seconds"].append(seconds)
            rows[program.name]["g-e"].append(2 * seconds / (before + after))
            units.append(after)
            before = after
    for row in rows.values():
        row["seconds"], row["g-e"] = spread(row["seconds"]), spread(row["g-e"])
    return {
        "unit": _sizes(gradient) | {"flops_each": flops, "seconds": spread(units)},
        "rows": rows,
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """The median and the quartiles; None of nothing.

    >>> spread([1.0, 2.0, 3.0])
    {'median': 2.0, 'low': 1.5, 'high': 2.5}
    """
    if not values:
        return None
    low, high = np.quantile(values, (0.25, 0.75))
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def _sizes(program: Compiled) -> dict[str, Any]:
    planned = program.memory
    return {
        "temporaries": None if planned is None else planned.temporaries + planned.results,
        "arguments": None if planned is None else planned.arguments,
        "compile_seconds": program.compile_seconds,
    }
