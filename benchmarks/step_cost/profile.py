"""What a step's time goes to, in our program and in PyTorch's."""

import pathlib
import re
import resource
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.step_cost.measure import Compiled

STEPS = 3
# Fused attention is two products with a softmax between them, here as in XLA's fusions.
_PEER = re.compile(r"aten::(mm|bmm|addmm|baddbmm|_scaled_dot_product_flash_attention.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\((.*)$")
# What they run has events of its own.
_CONTAINERS = {"while", "call", "conditional"}


def of_program(step: Compiled) -> dict[str, float]:
    """Seconds of a step of ours, by XLA's events; a fusion with a product in it counts as one.

    Returns:
      `products` and `other`, and what lies beside them: `system`, the kernel's part of the time,
      and `faults`, the pages of memory that it handed out.
    """
    kinds = product_kinds(step.program.as_text())
    found = dict.fromkeys(("products", "other"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        for event in (e for plane in planes for line in plane.lines for e in line.events):
            if event.name in kinds:
                found[kinds[event.name]] += event.duration_ns * 1e-9 / STEPS
    return found | _kernel(step)


def product_kinds(text: str) -> dict[str, str]:
    """Whether an instruction of a compiled program is `products` or `other`.

    Args:
      text: the program, as `as_text()` gives it.

    Returns:
      By name, those that run by themselves: neither loops nor what is inside of fusions.
    """
    instructions: dict[str, list[tuple[str, str, str]]] = {}
    fused = set()
    name = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            name = start[1]
            instructions[name] = []
        elif found := _INSTRUCTION.match(line):
            instructions[name].append((found[1], found[2], found[3]))
            if found[2] == "fusion":
                fused.add(_called(found[3]))
    has_product = {
        computation: any(operation == "dot" for _, operation, _ in rows)
        for computation, rows in instructions.items()
    }
    return {
        instruction: "products"
        if operation == "dot" or (operation == "fusion" and has_product[_called(rest)])
        else "other"
        for computation, rows in instructions.items()
        if computation not in fused
        for instruction, operation, rest in rows
        if operation not in _CONTAINERS
    }


def _called(rest: str) -> str:
    found = re.search(r"calls=%?([\w.\-]+)", rest)
    assert found, rest
    return found[1]


def of_peer(step: Callable[[], Any]) -> dict[str, float]:
    """The same of a step of PyTorch, by its own profiler."""
    import torch

    found = dict.fromkeys(("products", "other"), 0.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(STEPS):
            step()
    for row in profile.key_averages():
        kind = "products" if _PEER.match(row.key) else "other"
        found[kind] += row.self_cpu_time_total * 1e-6 / STEPS
    return found | _kernel(step)


def _kernel(step: Callable[[], Any]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "system": (after.ru_stime - before.ru_stime) / STEPS,
        "faults": (after.ru_minflt - before.ru_minflt) / STEPS,
    }
