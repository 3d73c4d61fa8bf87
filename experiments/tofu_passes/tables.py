"""The table of docs/comparison.md on more passes over the forget set."""

import json
import pathlib
import statistics

from ofmu_jax.contest.cells import interval, number, p_value, table
from ofmu_jax.contest.significance import mean_interval

RESULTS = pathlib.Path(__file__).with_name("results.json")


def tofu_passes() -> str:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    versions, runs = results["versions"], results["runs"]
    methods = {
        name: [r for r in runs if r["method"] == name]
        for name in results["config"]["methods"]
        if any(r["method"] == name for r in runs)
    }

    def over(part: str, name: str):
        return lambda rows: interval(mean_interval([r[part][name] for r in rows])._asdict())

    columns = {
        "score": over("figures", "score"),
        "median p": lambda rows: p_value(
            statistics.median(r["figures"]["forget_quality"] for r in rows)
        ),
        "D": over("figures", "ks_distance"),
        "relative utility": over("figures", "relative_utility"),
        "forget prob": over("figures", "forget_probability"),
        "retain prob": over("figures", "retain_probability"),
        "gradients": lambda rows: number(
            statistics.fmean(r["cost"]["gradient_equivalents"] for r in rows), 0
        ),
        "seeds": lambda rows: str(len(rows)),
    }
    ranked = sorted(
        methods.items(), key=lambda m: -statistics.fmean(r["figures"]["score"] for r in m[1])
    )
    return "\n".join(
        [
            "`python -m experiments.tofu_passes.run --data-dir TOFU --model CHECKPOINT --out OUT`; "
            f"jax {versions['jax']}, Python {versions['python']}, one CPU core. "
            f"{results['config']['epochs']} passes, one pair of models.",
            "",
            table(columns, dict(ranked)),
        ]
    )
