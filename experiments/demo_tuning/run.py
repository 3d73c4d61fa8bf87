"""Random search with one budget for every method; writes trials.jsonl and best.json.

A trial is a draw of hyperparameters, unlearned and evaluated on each seed. Its objective is the
mean over the seeds of the harmonic mean of 1 - D and the utility relative to the retrained model's,
at most 1; D, the Kolmogorov-Smirnov distance, rather than its p-value, which is flat at 0 almost
everywhere. After the draws from the whole space come `refine` draws from a box around the best.
Trials that are in `trials.jsonl` already are not run again.
"""

import json
import math
import pathlib
import shutil
from typing import Annotated

import numpy as np
import tyro

from ofmu_jax.methods import METHODS
from ofmu_jax.runs import demo
from ofmu_jax.runs.config import (
    LoopConfig,
    OutputConfig,
    from_dict,
    read_mapping,
    to_dict,
    versions,
)
from ofmu_jax.runs.folder import write_json

HERE = pathlib.Path(__file__).parent


def objective(rows):
    """What the search maximises."""
    return float(
        np.mean([demo.report.score(1 - r["ks_distance"], r["relative_utility"]) for r in rows])
    )


def box(space, point, factor=2.0):
    """The part of a search space within a factor of a point, its choices being the point's."""
    return {
        name: {"choices": [point[name]]}
        if isinstance(values, dict)
        else [point[name] / factor, point[name] * factor]
        for name, values in space.items()
    }


def draw(space, rng):
    """One point of a search space."""
    point = {}
    for name, values in space.items():
        if isinstance(values, dict):
            point[name] = values["choices"][rng.integers(len(values["choices"]))]
        else:
            low, high = (math.log(v) for v in values)
            point[name] = float(f"{math.exp(rng.uniform(low, high)):.3g}")
    return point


def run_trial(method, tasks, loops, scratch):
    """The demo's figures of a method on every seed."""
    rows = []
    for task, loop in zip(tasks, loops, strict=True):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        rows.append(demo.enter(method, task, loop, scratch))
    return rows


def main(
    out: str = "out/demo_tuning",
    config: str = str(HERE / "config.yaml"),
    method: Annotated[list[str], tyro.conf.arg(help="only these methods")] | None = None,
):
    """Searches, and prints the best setting of each method."""
    values = read_mapping(config)
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    cache = demo.cache_folder(None)
    seeds = values["seeds"]
    tasks = [demo.prepare(demo.DemoConfig(OutputConfig(""), seed=seed), cache) for seed in seeds]
    loops = [
        LoopConfig(values["epochs"], values["batch_size"], seed, log_every=1) for seed in seeds
    ]
    log = folder / "trials.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for name, space in values["methods"].items():
        rng = np.random.default_rng([0, sorted(METHODS).index(name)])
        for trial in range(values["trials"] + values["refine"]):
            if trial == values["trials"]:
                first = [d for d in done if d["method"] == name and d["trial"] < values["trials"]]
                if not first:
                    break
                space = box(space, max(first, key=lambda d: objective(d["rows"]))["point"])
            point = draw(space, rng)
            if method and name not in method:
                continue
            if any(d["method"] == name and d["trial"] == trial for d in done):
                continue
            instance = from_dict(METHODS[name], point, config)
            rows = run_trial(instance, tasks, loops, folder / f"scratch_{name}")
            record = {
                "method": name,
                "trial": trial,
                "point": point,
                "objective": objective(rows),
                "rows": rows,
            }
            done.append(record)
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(name, trial, f"{record['objective']:.3f}", point, flush=True)
    best = {}
    for name in values["methods"]:
        trials = [d for d in done if d["method"] == name]
        if trials:
            top = max(trials, key=lambda d: objective(d["rows"]))
            best[name] = {
                "objective": objective(top["rows"]),
                "method": to_dict(from_dict(METHODS[name], top["point"], config)),
                "rows": top["rows"],
                "trials": len(trials),
            }
    write_json(folder / "best.json", {"config": values, "versions": versions(), "best": best})
    print(json.dumps({k: (v["objective"], v["method"]) for k, v in best.items()}, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
