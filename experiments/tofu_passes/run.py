"""What more passes over the forget set buy: the comparison's chosen settings, run for longer.

usage: python -m experiments.tofu_passes.run --data-dir TOFU --model CHECKPOINT --out OUT
           [--methods npo,rmu] [--seed N ...]
       python -m experiments.tofu_passes.run --data-dir TOFU --model CHECKPOINT --out OUT --collect

The first runs what OUT lacks, on the models of OUT/models, which may be a link to those of a
comparison and are trained if they are not there; several processes may share OUT. The second writes
results.json beside this file.
"""

import dataclasses
import pathlib

from experiments.of_comparison import Comparison, parser
from ofmu_jax.contest.arena import REPORT, Arena
from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.contest.population import Member
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import read_mapping, versions
from ofmu_jax.runs.folder import write_json

HERE = pathlib.Path(__file__).parent


def main() -> None:
    usage = parser(__doc__)
    usage.add_argument("--seed", type=int, nargs="*")
    usage.add_argument("--collect", action="store_true")
    arguments = usage.parse_args()
    config = read_mapping(HERE / "config.yaml")
    arguments.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(arguments.out / "runs.jsonl")
    if arguments.collect:
        runs = sorted(
            ledger.read(), key=lambda r: (config["methods"].index(r["method"]), r["seed"])
        )
        write_json(HERE / "results.json", {"config": config, "runs": runs, "versions": versions()})
        return
    keep_programs(cache_folder())
    comparison = Comparison(config["comparison"], arguments.data_dir, arguments.model)
    rules = dataclasses.replace(comparison.contest.rules, epochs=config["epochs"])
    arena = Arena(dataclasses.replace(comparison.contest, rules=rules), arguments.out, 0)
    done = {(r["method"], r["seed"]) for r in ledger.read()}
    for seed in arguments.seed or config["seeds"]:
        for name in arguments.methods.split(",") if arguments.methods else config["methods"]:
            if (name, seed) in done:
                continue
            traced = comparison.contest.entries[name].traced
            (outcome,) = arena.run([Member(comparison.chosen(name), seed)], traced)
            ledger.append([{"method": name, "seed": seed, **arena.record(outcome, REPORT)}])
            arena.release_programs()


if __name__ == "__main__":
    main()
