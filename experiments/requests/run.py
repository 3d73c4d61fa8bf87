"""Ten deletion requests one by one, all at once, and by retraining; and what retain data are worth.

usage: python -m experiments.requests.run --out DIR [--on tofu --data-dir TOFU --model CHECKPOINT
           [--models FOLDER]] [--seed N ...]
       python -m experiments.requests.run --out DIR [--on tofu] --collect

The first trains, serves and writes DIR; what DIR holds is not made again. The second writes
results.json and the plot beside the config. On the embedded authors every seed has authors and
models of its own; on TOFU the models are those of a comparison, FOLDER being its OUT/models.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.of_comparison import SPLITS, Comparison
from ofmu_jax.contest.significance import mean_interval
from ofmu_jax.evals import Subject, evaluate_tofu
from ofmu_jax.methods import Method
from ofmu_jax.requests.config import Retention, ServeConfig, Thresholds
from ofmu_jax.requests.measures import measured, score
from ofmu_jax.requests.pool import Pool
from ofmu_jax.requests.report import row
from ofmu_jax.requests.serve import serve_requests
from ofmu_jax.requests.service import Service
from ofmu_jax.runs.config import (
    DataConfig,
    LoopConfig,
    OutputConfig,
    TrainConfig,
    from_dict,
    read_mapping,
    versions,
)
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.folder import RESULTS, write_figure, write_json
from ofmu_jax.runs.models import has_model, load_model
from ofmu_jax.runs.train import train

HERE = pathlib.Path(__file__).parent
ONE_BY_ONE, AT_ONCE = "one by one", "all at once"


class World:
    """One seed: its data, the model before, the retrained one, and requests served."""

    def __init__(
        self,
        config: dict,
        seed: int,
        folder: pathlib.Path,
        comparison: Comparison | None,
        models: pathlib.Path | None,
    ) -> None:
        self.config, self.seed, self.folder = config, seed, folder
        if comparison:
            self.data_config = comparison.contest.data
            self.method = comparison.chosen(config["chosen"])
        else:
            self.data_config = from_dict(DataConfig, config["data"] | {"data_seed": seed}, "data")
            self.method = from_dict(Method, config["method"], "method")
        self.data = load_data(self.data_config)
        self.pool = Pool(self.data)
        folder.mkdir(parents=True, exist_ok=True)
        if comparison:
            self.models = comparison.trained(models or folder / "models")
        else:
            self.models = {name: self.trained(split) for name, split in SPLITS.items()}

    def run(self) -> dict:
        """Every figure of this seed."""
        original, retrained = self.models["original"], self.models["retrained"]
        first, facts = len(self.data.retain), self.config["facts"]
        requests = {
            f"r{n}": list(range(start, start + facts))
            for n, start in enumerate(range(first, len(self.pool), facts), 1)
        }
        results = {"modes": {}, "retain_data": {}}
        subjects = {}
        for name, merged in ((ONE_BY_ONE, False), (AT_ONCE, True)):
            service = self.serve(name, requests, original, merged=merged)
            results["modes"][name] = [self.line(record) for record in service.records]
            subjects[name] = self.subject(pathlib.Path(service.model("")))
        yardstick = self.subject(retrained)
        before = score(self.subject(original), self.pool, self.data)
        figures = measured(score(yardstick, self.pool, self.data), before, self.pool, requests)
        seconds = json.loads((retrained / RESULTS).read_text())["seconds"]
        results["retrained"] = figures | {"seconds": seconds}
        results["original"] = measured(before, before, self.pool, requests)
        retained = self.truth(yardstick)
        results["ks_distance"] = {
            name: self.truth(subject, retained)["forget_quality"]["D"]
            for name, subject in (("original", self.subject(original)), *subjects.items())
        }
        half = {"half": list(range(len(self.pool) - 4 * facts, len(self.pool), 2))}
        for name, values in self.config["retain_data"].items():
            service = self.serve(name, half, original, Retention(**values))
            results["retain_data"][name] = self.line(service.records[0])
        return results

    def trained(self, split: str) -> pathlib.Path:
        folder = self.folder / split
        if not has_model(folder):
            values = self.config["train"]
            loop = from_dict(LoopConfig, values["loop"] | {"seed": self.seed}, "train.loop")
            output = OutputConfig(str(folder), overwrite=True)
            train(TrainConfig(self.data_config, output, loop, split=split))
        return folder

    def serve(
        self,
        name: str,
        requests: dict[str, list[int]],
        original: pathlib.Path,
        retention: Retention | None = None,
        merged: bool = False,
    ) -> Service:
        folder = self.folder / name.replace(",", "").replace(" %", "").replace(" ", "_")
        file = folder.with_suffix(".jsonl")
        lines = [
            {"id": n, "date": "2026-01-01", "indices": indices} for n, indices in requests.items()
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        loop = from_dict(LoopConfig, self.config["loop"] | {"seed": self.seed}, "loop")
        status = serve_requests(
            ServeConfig(
                data=self.data_config,
                output=OutputConfig(str(folder), resume=folder.is_dir()),
                model=str(original),
                requests=str(file),
                method=self.method,
                merged=merged,
                loop=loop,
                retention=retention or Retention(),
                thresholds=Thresholds(**self.config["thresholds"]),
            )
        )
        assert status == 0
        return Service(folder)

    @staticmethod
    def line(record: dict) -> dict:
        each = {name: r["probability"] for name, r in record["metrics"]["requests"].items()}
        return row(record) | {"each": each}

    def subject(self, folder: pathlib.Path) -> Subject:
        model = load_model(folder)
        return Subject(model.config, model.params, model.tokenizer, self.data_config.template)

    def truth(self, subject: Subject, retained: dict | None = None) -> dict:
        data = dataclasses.replace(self.data, holdout=())
        wanted = ["forget_truth_ratio"] + (["forget_quality"] if retained else [])
        return evaluate_tofu(subject, data, wanted=wanted, retain_results=retained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--on", choices=["authors", "tofu"], default="authors")
    parser.add_argument("--data-dir")
    parser.add_argument("--model")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--seed", type=int, nargs="*")
    parser.add_argument("--collect", action="store_true")
    arguments = parser.parse_args()
    folder = HERE / arguments.on
    config = read_mapping(folder / "config.yaml")
    if not arguments.collect:
        comparison = None
        if arguments.on == "tofu":
            if not (arguments.data_dir and arguments.model):
                parser.error("--on tofu needs --data-dir and --model")
            comparison = Comparison(config["comparison"], arguments.data_dir, arguments.model)
        for seed in arguments.seed or config["seeds"]:
            began = time.perf_counter()
            place = arguments.out / f"seed_{seed}"
            world = World(config, seed, place, comparison, arguments.models)
            results = world.run() | {"seconds": time.perf_counter() - began}
            write_json(arguments.out / f"seed_{seed}.json", results)
    seeds = {
        str(seed): json.loads((arguments.out / f"seed_{seed}.json").read_text())
        for seed in config["seeds"]
        if (arguments.out / f"seed_{seed}.json").is_file()
    }
    folder = folder if arguments.collect else arguments.out
    write_json(folder / "results.json", {"config": config, "seeds": seeds, "versions": versions()})
    plot(list(seeds.values()), folder / "requests.png")


def plot(seeds: list[dict], path: pathlib.Path) -> None:
    """Forgetting and utility over the requests: means over seeds, with bars for intervals."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels = ((left, ("forget", "past", "unseen")), (right, ("kept", "utility_ratio")))
    for axes, names in panels:
        for color, name in zip(("C0", "C1", "C2"), names, strict=False):
            count = len(seeds[0]["modes"][ONE_BY_ONE])
            steps = [
                mean_interval([s["modes"][ONE_BY_ONE][n][name] for s in seeds])
                for n in range(count)
            ]
            axes.errorbar(
                range(1, count + 1),
                [x.mean for x in steps],
                yerr=[[x.mean - x.low for x in steps], [x.high - x.mean for x in steps]],
                marker=".",
                linewidth=1.2,
                elinewidth=0.7,
                capsize=2,
                color=color,
                label=f"{name.replace('_', ' ')}, one by one",
            )
            if name == "unseen":
                continue
            once = mean_interval([s["modes"][AT_ONCE][0][name] for s in seeds])
            axes.axhline(once.mean, color=color, linestyle="--", linewidth=0.9, label=f"{AT_ONCE}")
            if name != "past":
                other = [_retrained(s, name) for s in seeds]
                axes.axhline(
                    mean_interval(other).mean,
                    color=color,
                    linestyle=":",
                    linewidth=0.9,
                    label="retrained",
                )
        axes.set_xlabel("requests served")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    left.set_ylabel("answer probability")
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.1)
    write_figure(path, figure)


def _retrained(seed: dict, name: str) -> float:
    if name == "forget":
        return max(r["probability"] for r in seed["retrained"]["requests"].values())
    return seed["retrained"][name]


if __name__ == "__main__":
    main()
