"""What quality costs: a table of docs/performance.md and `cost.png`, from the runs that are there.

usage: python -m experiments.pocket_authors.cost    draws the plot
"""

import json
import pathlib
from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure

from ofmu_jax.contest.cells import number, table
from ofmu_jax.contest.plots import legend, styles
from ofmu_jax.contest.significance import mean_interval
from ofmu_jax.runs.folder import write_figure

HERE = pathlib.Path(__file__).parent
LEAST_P, LEAST_UTILITY = 0.05, 0.95


def _runs() -> dict[str, dict[str, list[dict]]]:
    """Trials, and runs of the chosen setting, that did not diverge; by method and stage."""
    methods = json.loads((HERE / "results.json").read_text())["summary"]["methods"]
    found: dict = defaultdict(lambda: {"search": [], "final": []})
    for line in (HERE / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["stage"] not in ("search", "final") or run["status"] != "ok":
            continue
        # Runs of a setting that was chosen before another are there too.
        if run["stage"] == "search" or run["trial"] == methods[run["method"]]["best"]["trial"]:
            found[run["method"]][run["stage"]].append(run)
    return dict(found)


def _reaches(run: dict) -> bool:
    figures = run["figures"]
    enough = figures["relative_utility"] >= LEAST_UTILITY
    return enough and figures["forget_quality"] >= LEAST_P


def _best(runs: list[dict]) -> float:
    return max(run["figures"]["score"] for run in runs)


def _until(runs: list[dict], cost: str, reached: list[bool]) -> float | None:
    """The cost of all trials by the number of those that count: what one more would cost."""
    return sum(run["cost"][cost] for run in runs) / sum(reached) if any(reached) else None


def quality_per_cost() -> str:
    runs = _runs()
    bar = _best(runs["npo"]["search"])

    def until(cost: str, counts):
        def cell(row: dict) -> str:
            trials = row["search"]
            return number(_until(trials, cost, [counts(run) for run in trials]), 0)

        return cell

    def as_good(run: dict) -> bool:
        return run["figures"]["score"] >= bar

    columns = {
        "gradients a trial": lambda row: number(
            float(np.mean([run["cost"]["gradient_equivalents"] for run in row["search"]])), 0
        ),
        "best trial": lambda row: number(_best(row["search"]), 3),
        "trials that reach it": lambda row: (
            f"{sum(map(_reaches, row['search']))} of {len(row['search'])}"
        ),
        "seeds that do": lambda row: f"{sum(map(_reaches, row['final']))} of {len(row['final'])}",
        "gradients until it": until("gradient_equivalents", _reaches),
        "seconds until it": until("seconds", _reaches),
        "gradients until NPO's best": until("gradient_equivalents", as_good),
    }
    order = sorted(runs, key=lambda name: -_best(runs[name]["search"]))
    return "\n".join(
        [
            f"The trials and seeds of `experiments/pocket_authors`. It: p >= {LEAST_P} at "
            f"{LEAST_UTILITY} of the retrained model's utility. Until: the cost of all trials of "
            "the random search by the number of those that reach it; NPO's best trial has a score "
            f"of {number(bar, 3)}.",
            "",
            table(columns, {name: runs[name] for name in order}),
        ]
    )


def plot() -> Figure:
    """Score over seeds against the cost of a run, in gradients and in seconds."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    runs = _runs()
    look = styles(runs)
    for name, stages in runs.items():
        scores = mean_interval([run["figures"]["score"] for run in stages["final"]])
        for axes, cost in ((left, "gradient_equivalents"), (right, "seconds")):
            axes.errorbar(
                np.median([run["cost"][cost] for run in stages["final"]]),
                scores.mean,
                [[scores.mean - scores.low], [scores.high - scores.mean]],
                **look[name] | {"linestyle": "none"},
                capsize=3,
                label=name,
            )
    left.set(xscale="log", xlabel="gradients a run", ylabel="score", ylim=(-0.05, 1.1))
    right.set(xscale="log", xlabel="seconds a run")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    legend(figure, left)
    return figure


if __name__ == "__main__":
    write_figure(HERE / "cost.png", plot())
