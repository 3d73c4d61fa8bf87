"""Random search with one budget for every method; writes trials.jsonl and best.json.

A trial is a draw of hyperparameters, unlearned and evaluated on each seed. Its objective is the
mean over the seeds of the harmonic mean of 1 - D and the utility relative to the retrained model's,
at most 1; D, the Kolmogorov-Smirnov distance, rather than its p-value, which is flat at 0 almost
everywhere. After the draws from the whole space come `refine` draws from a box around the best.
Trials that are in `trials.jsonl` already are not run again.
"""

import functools
import json
import math
import pathlib
import shutil
from typing import Annotated

import numpy as np
import tyro

from ofmu_jax.evals import evaluate_tofu
from ofmu_jax.methods import METHODS
from ofmu_jax.runs import demo
from ofmu_jax.runs.config import (
    DataConfig,
    LoopConfig,
    OutputConfig,
    from_dict,
    read_mapping,
    to_dict,
    versions,
)
from ofmu_jax.runs.folder import write_json
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.train import load_data
from ofmu_jax.runs.unlearn import unlearn_model

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


def task(seed, config, cache):
    """Data, original model, and evaluator of a seed."""
    demo_config = demo.DemoConfig(OutputConfig(""), seed=seed)
    data_config = DataConfig("authors", data_seed=seed)
    data = load_data(data_config)
    folders = [
        demo.trained(demo_config, data_config, split, cache)[0] for split in ("full", "retain")
    ]
    evaluator = functools.partial(
        evaluate_tofu,
        data=data,
        template=data_config.template,
        max_new_tokens=demo_config.max_new_tokens,
        batch_size=32,
    )
    retrained = demo.evaluated(folders[1], evaluator)
    loop = LoopConfig(config["epochs"], config["batch_size"], seed, log_every=1)
    return load_model(folders[0]), data, data_config.template, loop, evaluator, retrained


def run_trial(method, tasks, scratch):
    """The demo's figures of a method on every seed."""
    rows = []
    for model, data, template, loop, evaluator, retrained in tasks:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        params, result, _ = unlearn_model(model, data, method, loop, scratch, template=template)
        results = evaluator(model.config, params, model.tokenizer, retain_results=retrained)
        rows.append(demo.row(results, retrained) | {"seconds": result.seconds})
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
    tasks = [task(seed, values, cache) for seed in values["seeds"]]
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
            rows = run_trial(instance, tasks, folder / f"scratch_{name}")
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
