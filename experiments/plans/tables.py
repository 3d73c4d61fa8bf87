"""The table of docs/scale.md."""

import json
import pathlib

from ofmu_jax.contest.cells import number

RESULTS = pathlib.Path(__file__).with_name("results.json")


def plans() -> str:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    known = {"jax": set(), "libtpu": set()}
    lines = [
        "| model | slice | method | trained | rows | held | temporaries | in all | of | fits | "
        "gradients per step | sent | s per step at best | bound by | compiled, s |",
        "|---" * 15 + "|",
    ]
    for name, row in rows.items():
        model, topology, method, trained = name.split(", ")
        found, compiled = row["plan"], row["plan"]["compiled"]
        for package, seen in known.items():
            seen.add(row["versions"].get(package, "none"))
        temporaries, total, seconds = None, found["least"], None
        if compiled is not None:
            memory, total = compiled["memory"], found["total"]
            temporaries = memory["temporaries"] + memory["results"] + memory["code"]
            seconds = compiled["seconds"]
        needed, available = f"{_gib(total)}{'' if compiled else ' at least'}", found["memory"]
        if found["shortage"] is not None and found["shortage"]["needed"] is not None:
            needed, available = _gib(found["shortage"]["needed"]), found["shortage"]["available"]
        best = dict(found["seconds_at_best"])
        step = best.pop("step")
        cells = [
            model,
            topology,
            method,
            "all" if trained == "all parameters" else trained,
            f"{found['rows']} + {found['rows']} of {row['config']['row_length']}",
            _gib(sum(found["held"].values())),
            _gib(temporaries),
            needed,
            _gib(available),
            {True: "yes", False: "no", None: "not compiled"}[found["fits"]],
            number(found["equivalents"], 1),
            _gib(found["work"]["sent"]),
            number(step, 2),
            max(best, key=best.get),
            number(seconds, 0),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = "; ".join(f"{package} {', '.join(sorted(v))}" for package, v in known.items())
    return "\n".join(
        [
            "GiB and operations of one device; parameters in float32, bfloat16 compute, remat of "
            "whole blocks, all devices in `fsdp`. ofmu exact: both Hessian-vector products by "
            "automatic differentiation; fast: the similarity's by finite differences, the outer "
            f"one from the inner loop's own steps. {versions}; compiled on one core that was "
            "shared with others.",
            "",
            *lines,
        ]
    )


def _gib(size: float | None) -> str:
    return number(None if size is None else size / 2**30, 1)
