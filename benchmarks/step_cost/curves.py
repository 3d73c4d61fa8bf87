"""How the cost of a step grows with rows, their length, layers, inner steps and devices."""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.step_cost.measure import Case, measure
from benchmarks.step_cost.setting import MODES, Setting
from ofmu_jax.methods import METHODS, Method, Ofmu

SHOWN = ("fast",)
POINTS = {
    "length": (32, 64, 128),
    "rows": (4, 8, 16),
    "layers": (2, 4, 8),
    "inner steps": (2, 5, 10),
}
DEVICES = (1, 2, 4)
INNER_STEPS = 2


def curves(base: Setting, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """For every curve the figures by its values; what does not vary is that of `base`."""

    @functools.cache
    def point(setting: Setting, steps: int) -> dict[str, Any]:
        cases = [setting.step(name, method) for name, method in _methods(steps).items()]
        return measure(setting.gradient(), cases, repeats, say)

    found: dict[str, Any] = {}
    for curve, values in POINTS.items():
        found[curve] = {}
        for value in values:
            say(f"{curve} {value}")
            if curve == "inner steps":
                found[curve][str(value)] = point(base, value)
            else:
                found[curve][str(value)] = point(
                    dataclasses.replace(base, **{curve: value}), INNER_STEPS
                )
    return found


def _methods(steps: int) -> dict[str, Method]:
    return {
        "grad_diff": METHODS["grad_diff"](),
        **{name: Ofmu(inner_steps=steps, **MODES[name]) for name in SHOWN},
    }


def devices(base: Setting, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The same step spread over virtual devices of this CPU, measured in a process of its own."""
    flag = f"--xla_force_host_platform_device_count={max(DEVICES)}"
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.step_cost.curves", "--repeats", str(repeats)]
    for field, value in dataclasses.asdict(base).items():
        command += [f"--{field}", str(value)]
    say("devices, in a process of their own")
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _on_devices(setting: Setting, count: int, repeats: int) -> dict[str, Any]:
    import jax

    from ofmu_jax.scale import MeshShape, make_mesh, replicated, use_mesh

    mesh = make_mesh(MeshShape(fsdp=count))
    cases = []
    with use_mesh(mesh):
        for name, method in _methods(INNER_STEPS).items():
            program = setting.program(method, mesh)
            lying = jax.tree.map(lambda x: x.sharding, program.arguments)
            case = setting.step(name, method)
            placed = jax.tree.map(jax.device_put, case.arguments, lying)
            shardings = (lying[0], replicated(mesh))
            cases.append(Case(name, program.function, placed, True, shardings))
        unit = setting.gradient()
        params, retain = cases[0].arguments[0].params, cases[0].arguments[-1]
        rows = {name: retain[name] for name in unit.arguments[1]}
        return measure(Case(unit.name, unit.function, (params, rows)), cases, repeats)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int)
    for field in dataclasses.fields(Setting):
        parser.add_argument(f"--{field.name}", type=type(field.default))
    given = vars(parser.parse_args())
    repeats = given.pop("repeats")
    setting = Setting(**given)
    print(json.dumps({str(n): _on_devices(setting, n, repeats) for n in DEVICES}))


if __name__ == "__main__":
    _main()
