"""The main table, and the one of memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.step_cost.measure import Compiled, measure
from benchmarks.step_cost.setting import MODES, Setting, methods
from ofmu_jax.methods import GradDiff, Ofmu
from ofmu_jax.scale import size_of

REMATS = ("none", "dots", "full")
LIMITED = ("fast", "exact, trajectory", "exact")
TRAJECTORY = "outer penalty by trajectory, extra"
_WITHOUT, _WITH = (f"inner loop of 5 alone, secant {keep}" for keep in ("none", "last"))


def main(setting: Setting, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every method's step and OFMU's primitives."""
    steps = [setting.step(name, method) for name, method in methods(setting.layers).items()]
    found = measure(setting.gradient(), [*setting.primitives(), *steps], repeats, say)
    rows, base = found["rows"], found["rows"]["grad_diff"]["temporaries"]
    for row in rows.values():
        row["temporaries_ratio"] = row["temporaries"] / base
    # The loops are alike but for what the trajectory's product takes.
    extra = {
        field: rows[_WITH][field] - rows[_WITHOUT][field] for field in ("flops", "temporaries")
    }
    costs = rows[_WITH]["g-e"], rows[_WITHOUT]["g-e"]
    cost = {name: costs[0][name] - costs[1]["median"] for name in costs[0]} if repeats else None
    rows[TRAJECTORY] = rows[_WITH] | extra | {"g-e": cost, "temporaries_ratio": None}
    return found


def memory(setting: Setting, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Temporaries of GradDiff's and OFMU's steps under each remat; nothing is run."""
    del repeats
    found: dict[str, Any] = {}
    chosen = {"grad_diff": GradDiff()} | {name: Ofmu(**MODES[name]) for name in LIMITED}
    for remat in REMATS:
        size = dataclasses.replace(setting, remat=remat)
        found[remat] = {}
        for name, method in chosen.items():
            say(f"memory: {name}, remat {remat}")
            case = size.step(name, method)
            planned, state = Compiled(case).memory, case.arguments[0]
            assert planned is not None  # compilers for CPUs tell it
            found[remat][name] = {
                "temporaries": planned.temporaries + planned.results,
                "parameters": size_of(state.params),
                "optimisers": size_of(state.opt_state),
            }
        base = found[remat]["grad_diff"]["temporaries"]
        for row in found[remat].values():
            row["ratio"] = row["temporaries"] / base
    return found
