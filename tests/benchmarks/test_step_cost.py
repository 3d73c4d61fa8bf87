"""The benchmark of what a step costs, on a model that is next to nothing."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks.step_cost import __main__ as command
from benchmarks.step_cost import goals, measure, parts, profile, setting
from ofmu_jax.methods import METHODS
from ofmu_jax.scale import count_flops

TINY = setting.Setting(layers=1, hidden=32, vocabulary=32, rows=2, length=8)


def test_every_method_has_a_row():
    names = setting.methods(4)
    assert set(METHODS) - {"ofmu"} <= set(names)
    assert {f"ofmu, T = 5, {mode}" for mode in setting.MODES} <= set(names)
    rows = {*names, *(case.name for case in TINY.primitives()), parts.TRAJECTORY}
    assert set(goals.GRADIENTS) <= rows


@pytest.mark.slow
def test_operations_are_in_the_order_of_the_formulas():
    unit = TINY.gradient()
    gradient = count_flops(unit.function, *unit.arguments)
    flops = {
        case.name: count_flops(case.function, *case.arguments) / gradient
        for case in TINY.primitives()
    }
    without, with_secant = (flops[f"inner loop of 5 alone, secant {k}"] for k in ("none", "last"))
    difference = flops["grad Phi, finite difference"]
    exact, shared = (flops[f"grad Phi, exact{kind}"] for kind in ("", ", primal shared"))
    assert 0 < with_secant - without < 2
    assert 4 < difference < 5.5
    assert difference < shared < exact < 10
    # The similarity's products are exact in both; the trajectory's costs no gradient of its own.
    steps = {
        mode: count_flops(case.function, *case.arguments) / gradient
        for mode in ("exact, trajectory", "exact")
        for case in [TINY.step(mode, setting.Ofmu(inner_steps=2, **setting.MODES[mode]))]
    }
    assert steps["exact, trajectory"] + 2 * exact < steps["exact"]


def test_a_ratio_is_to_warm_gradients_beside_it(monkeypatch):
    class Clocked:
        memory, compile_seconds = None, 0.0

        def __init__(self, case, ticks={"unit": [9.0, 9.0, 1.0, 9.0, 3.0], "step": [9.0, 4.0]}):  # noqa: B006
            self.name, self.ticks = case.name, iter(ticks[case.name])

        def __call__(self):
            return next(self.ticks)

    monkeypatch.setattr(measure, "Compiled", Clocked)
    monkeypatch.setattr(measure, "count_flops", lambda *args: 1.0)
    case = lambda name: measure.Case(name, None, ())
    row = measure.measure(case("unit"), [case("step")], 1)["rows"]["step"]
    assert row["g-e"]["median"] == 2.0 and row["seconds"]["median"] == 4.0


def test_products_are_told_from_the_rest_also_within_loops_and_fusions():
    weights = jnp.full((3, 64, 64), 0.01)

    def layer(x, w):
        return jnp.sin(x @ w), None

    case = measure.Case(
        "layers", lambda x: jax.lax.scan(layer, x, weights)[0], (jnp.ones((64, 64)),)
    )
    step = measure.Compiled(case)
    text = step.program.as_text()
    kinds = profile.product_kinds(text)
    assert list(kinds.values()).count("products") == 1 and "other" in kinds.values()
    loops = re.findall(r"%(\S+) = .* while\(", text)
    assert loops and not set(loops) & set(kinds)
    seconds = profile.of_program(step)
    assert seconds["products"] > 0 and seconds["other"] > 0


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path, monkeypatch):
    chosen = {"grad_diff", "ofmu, T = 5, fast"}
    monkeypatch.setattr(
        parts,
        "methods",
        lambda layers: {k: v for k, v in setting.methods(layers).items() if k in chosen},
    )
    monkeypatch.setattr(command.os, "sched_setaffinity", lambda *args: None)
    out = tmp_path / "cost.json"
    sizes = [
        "--layers",
        "1",
        "--hidden",
        "32",
        "--vocabulary",
        "32",
        "--rows",
        "2",
        "--length",
        "8",
    ]
    command.main(["--out", str(out), "--repeats", "1", "--only", "main", *sizes])
    results = json.loads(out.read_text())
    assert set(command.PARTS) < set(results)
    rows = results["main"]["rows"]
    assert chosen < set(rows)
    for name, row in rows.items():
        assert row["g-e"]["low"] <= row["g-e"]["median"] <= row["g-e"]["high"], name
        assert row["compile_seconds"] > 0 and row["temporaries"] > 0, name
    assert rows["ofmu, T = 5, fast"]["flops"] > 5 * rows["grad_diff"]["flops"]
    assert {goal["what"] for goal in results["goals"]} == {
        f"{name}: gradients" for name in goals.GRADIENTS if name in rows
    }
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
