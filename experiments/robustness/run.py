"""Attacks on what methods made of a model that knows TOFU.

usage: python -m experiments.robustness.run --data-dir TOFU --model CHECKPOINT --out OUT
           [--models FOLDER] [--methods npo,rmu]

Trains the original and the retrained model, as the comparison in config.yaml does (or takes them
from FOLDER, a comparison's OUT/models), unlearns with each method, attacks the result, and writes
results.json beside this file from all methods that OUT holds. What OUT holds is not made anew.
"""

import argparse
import dataclasses
import json
import pathlib

from ofmu_jax.contest.config import CompareConfig, Contest, read_contest
from ofmu_jax.contest.trained_once import trained_once
from ofmu_jax.methods import Method
from ofmu_jax.runs.attack import RESULTS, attack
from ofmu_jax.runs.attack_config import AttackConfig
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import (
    LoopConfig,
    OutputConfig,
    UnlearnConfig,
    from_dict,
    read_mapping,
    to_dict,
)
from ofmu_jax.runs.folder import write_json
from ofmu_jax.runs.models import has_model
from ofmu_jax.runs.train import train
from ofmu_jax.runs.unlearn import unlearn

HERE = pathlib.Path(__file__).parent
SPLITS = {"original": "full", "retrained": "retain"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--methods", default="")
    arguments = parser.parse_args()
    config = read_mapping(HERE / "config.yaml")
    comparison = HERE.parents[1] / config["comparison"]
    contest = read_contest(
        CompareConfig(
            str(comparison / "config.yaml"),
            OutputConfig("unused"),
            data_dir=arguments.data_dir,
            model=arguments.model,
        )
    )
    methods = read_methods(config, contest, comparison)
    wanted = [name for name in arguments.methods.split(",") if name] or list(methods)
    keep_programs(cache_folder())
    models = arguments.models or arguments.out / "models"
    trained = {
        name: _trained(contest, models / f"{name}_0", split) for name, split in SPLITS.items()
    }
    for name in wanted:
        run = arguments.out / "runs" / name
        if not has_model(run):
            unlearn(
                UnlearnConfig(
                    data=contest.data,
                    output=OutputConfig(str(run), resume=True),
                    model=str(trained["original"]),
                    method=methods[name],
                    loop=LoopConfig(
                        epochs=contest.rules.epochs,
                        batch_size=contest.rules.batch_size,
                        checkpoint_every=1000,
                    ),
                )
            )
        values = {
            **config["attack"],
            "data": to_dict(contest.data),
            "output": {"out": str(arguments.out / "attacks" / name), "resume": True},
            "model": str(run),
            **{kind: str(folder) for kind, folder in trained.items()},
        }
        attack(from_dict(AttackConfig, values, "attack"))
        write_json(HERE / "results.json", collect(arguments.out / "attacks", config, methods))


def read_methods(config: dict, contest: Contest, comparison: pathlib.Path) -> dict[str, Method]:
    """The methods by label: the chosen settings of the comparison, then those of the config."""
    found = json.loads((comparison / "results.json").read_text())["summary"]["methods"]
    chosen = {
        name: contest.entries[name].at(found[name]["best"]["point"]) for name in config["chosen"]
    }
    return chosen | {
        name: from_dict(Method, values, f"methods.{name}")
        for name, values in config["methods"].items()
    }


def collect(folder: pathlib.Path, config: dict, methods: dict[str, Method]) -> dict:
    """The results of all methods that are there, without what each says of the same machine."""
    rows, versions = {}, {}
    for name, method in methods.items():
        path = folder / name / RESULTS
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            versions = found.pop("versions")
            rows[name] = {"method": to_dict(method), **found}
    return {"attack": config["attack"], "methods": rows, "versions": versions}


def _trained(contest: Contest, folder: pathlib.Path, split: str) -> pathlib.Path:
    run = contest.training(0, split, str(folder))
    run = dataclasses.replace(run, output=dataclasses.replace(run.output, resume=True))
    return trained_once(folder, has_model, lambda: train(run))


if __name__ == "__main__":
    main()
