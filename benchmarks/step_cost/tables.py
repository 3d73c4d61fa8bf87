"""The tables of docs/performance.md, from the benchmark's results."""

import json
import pathlib
from typing import Any

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "step_cost.json"


def _read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _times(cost: dict[str, float] | None, digits: int = 2) -> str:
    if cost is None:
        return "-"
    return "{median:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(**cost, d=digits)


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"


def step_goals() -> str:
    results = _read()
    setting, machine, versions = results["setting"], results["machine"], results["versions"]
    verdict = {True: "yes", False: "no", None: "not measured"}
    rows = [
        [row["what"], f"{row['goal']:g}", f"{row['figure']:.2f}", verdict[row["reached"]]]
        for row in results["goals"]
        if row["figure"] is not None
    ]
    return "\n".join(
        [
            f"`python -m benchmarks.step_cost --peers`: {setting['layers']} layers of width "
            f"{setting['hidden']}, {setting['vocabulary']} tokens, batches of {setting['rows']} x "
            f"{setting['length']} forget and as many retain tokens, float32, remat "
            f"{setting['remat']}; {machine['processor']}, {machine['threads']} thread(s), medians "
            f"of {results['repeats']} rounds; jax {versions['jax']}. A gradient took "
            f"{results['main']['unit']['seconds']['median']:.2f} s.",
            "",
            _table(["what", "limit", "measured", "reached"], rows),
        ]
    )


def step_costs() -> str:
    rows = _read()["main"]["rows"]
    cells = [
        [
            name,
            _times(row["g-e"]),
            f"{row['flops']:.2f}",
            _mib(row["temporaries"]),
            "-" if row["temporaries_ratio"] is None else f"{row['temporaries_ratio']:.2f}",
            f"{row['compile_seconds']:.1f}",
        ]
        for name, row in rows.items()
    ]
    head = ["program", "gradients", "FLOPs", "temporaries, MiB", "of GradDiff's", "compiled, s"]
    return _table(head, cells)


def step_memory() -> str:
    memory = _read()["memory"]
    cells = []
    for remat, rows in memory.items():
        for name, row in rows.items():
            sizes = [_mib(row[part]) for part in ("parameters", "optimisers")]
            cells.append([remat, name, _mib(row["temporaries"]), f"{row['ratio']:.2f}", *sizes])
    head = ["remat", "step", "temporaries, MiB", "of GradDiff's"]
    return _table([*head, "parameters, MiB", "optimisers, MiB"], cells)


def step_curves() -> str:
    results = _read()
    curves = {**(results["curves"] or {}), "devices": results["devices"] or {}}
    curves.pop("setting", None)
    cells = []
    for curve, points in curves.items():
        for value, point in points.items():
            if value == "setting":
                continue
            costs = [
                f"{_times(row['g-e'])} ({_mib(row['temporaries'])} MiB)"
                for row in point["rows"].values()
            ]
            cells.append([curve, value, f"{point['unit']['seconds']['median']:.3f}", *costs])
    setting = results["curves"]["setting"]
    return "\n".join(
        [
            f"Around {setting['layers']} layers, {setting['rows']} rows of {setting['length']} "
            "tokens and 2 inner steps; gradients per step, and temporaries of each device.",
            "",
            _table(["what varies", "value", "a gradient, s", "grad_diff", "ofmu, fast"], cells),
        ]
    )


def step_peers() -> str:
    peers = _read()["peers"]
    large, small = peers["settings"]
    cells = []
    for name, row in peers["rows"].items():
        size = small if name.startswith("ofmu") else large
        deviation = "-" if row["deviation"] is None else f"{row['deviation']:.0e}"
        ours, peer, ratio = (_times(row[c], d) for c, d in (("ours", 4), ("peer", 4), ("ratio", 2)))
        cells.append([name, f"{size['rows']} x {size['length']}", ours, peer, ratio, deviation])
    versions = peers["versions"]
    return "\n".join(
        [
            f"torch {versions['torch']}, transformers {versions['transformers']}; seconds per "
            "step, no remat.",
            "",
            _table(["step", "batch", "ours", "PyTorch", "ratio", "deviation"], cells),
        ]
    )


def step_profile() -> str:
    rows, kinds = _read()["peers"]["rows"], ("products", "other", "system")
    cells = [
        [name, whose, *(f"{part[kind]:.3f}" for kind in kinds), f"{part['faults']:,.0f}"]
        for name, row in rows.items()
        if row["profile"]
        for whose, part in (("ours", row["profile"]["ours"]), ("PyTorch", row["profile"]["peer"]))
    ]
    head = ["step", "whose", "matrix products, s", "all else, s", "kernel, s", "page faults"]
    return _table(head, cells)
