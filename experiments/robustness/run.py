"""Attacks on what methods made of a model that knows TOFU.

usage: python -m experiments.robustness.run --data-dir TOFU --model CHECKPOINT --out OUT
           [--models FOLDER] [--methods npo,rmu]

Trains the original and the retrained model, as the comparison in config.yaml does (or takes them
from FOLDER, a comparison's OUT/models), unlearns with each method, attacks the result, and writes
results.json beside this file from all methods that OUT holds. What OUT holds is not made anew.
"""

import json
import pathlib

from experiments.of_comparison import Comparison, parser
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
from ofmu_jax.runs.unlearn import unlearn

HERE = pathlib.Path(__file__).parent


def main() -> None:
    usage = parser(__doc__)
    usage.add_argument("--models", type=pathlib.Path)
    arguments = usage.parse_args()
    config = read_mapping(HERE / "config.yaml")
    comparison = Comparison(config["comparison"], arguments.data_dir, arguments.model)
    contest = comparison.contest
    methods = read_methods(config, comparison)
    wanted = [name for name in arguments.methods.split(",") if name] or list(methods)
    keep_programs(cache_folder())
    trained = comparison.trained(arguments.models or arguments.out / "models")
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


def read_methods(config: dict, comparison: Comparison) -> dict[str, Method]:
    """The methods by label: the chosen settings of the comparison, then those of the config."""
    return {name: comparison.chosen(name) for name in config["chosen"]} | {
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


if __name__ == "__main__":
    main()
