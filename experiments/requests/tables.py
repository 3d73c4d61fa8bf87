"""The tables of docs/requests.md."""

import json
import pathlib
from collections.abc import Callable

from ofmu_jax.contest.cells import NONE, interval, table
from ofmu_jax.contest.significance import mean_interval

HERE = pathlib.Path(__file__).parent


def _deletions(on: str) -> tuple[list[dict], str]:
    results = json.loads((HERE / on / "results.json").read_text(encoding="utf-8"))
    seeds, versions = list(results["seeds"].values()), results["versions"]
    options, repeated = {
        "authors": (
            "",
            f"{len(seeds)} seeds, each with models and fictitious authors of its own; brackets are "
            "95 % intervals over them",
        ),
        "tofu": (" --on tofu --data-dir TOFU --model CHECKPOINT", "One seed"),
    }[on]
    return seeds, (
        f"`python -m experiments.requests.run{options} --out DIR`; jax {versions['jax']}, Python "
        f"{versions['python']}, CPU. {repeated}"
    )


def _over(seeds: list[dict], value: Callable[[dict], float | None]) -> str:
    values = [value(seed) for seed in seeds]
    return NONE if None in values else interval(mean_interval(values)._asdict())


def deletion_requests() -> str:
    return _requests("authors")


def deletion_requests_tofu() -> str:
    return _requests("tofu")


def _requests(on: str) -> str:
    seeds, command = _deletions(on)
    columns = {
        "forget": lambda m: _over(seeds, lambda s: m(s)["forget"]),
        "kept": lambda m: _over(seeds, lambda s: m(s)["kept"]),
        "utility ratio": lambda m: _over(seeds, lambda s: m(s)["utility_ratio"]),
        "mean D": lambda m: _over(seeds, lambda s: m(s)["ks_distance"]),
    }

    def served(name: str) -> Callable[[dict], dict]:
        def figures(seed: dict) -> dict:
            lines = seed["modes"][name]
            own = {"forget": lines[-1]["past"], "ks_distance": seed["ks_distance"][name]}
            return lines[-1] | own

        return figures

    def model(name: str, distance: float | None) -> Callable[[dict], dict]:
        def figures(seed: dict) -> dict:
            known = [r["probability"] for r in seed[name]["requests"].values()]
            d = seed["ks_distance"][name] if distance is None else distance
            return seed[name] | {"forget": max(known), "ks_distance": d}

        return figures

    rows = {
        "original": model("original", None),
        "one by one": served("one by one"),
        "all at once": served("all at once"),
        "retrained": model("retrained", 0.0),
    }
    return "\n".join([f"{command}.", "", table(columns, rows).replace("| method", "| model", 1)])


def retain_data() -> str:
    seeds, command = _deletions("authors")
    names = ("forget", "neighbours", "kept", "utility_ratio")
    columns = {
        name.replace("_", " "): lambda row, name=name: _over(
            seeds, lambda s: s["retain_data"][row][name]
        )
        for name in names
    }
    rows = {name: name for name in seeds[0]["retain_data"]}
    return "\n".join(
        [f"{command}.", "", table(columns, rows).replace("| method", "| retain data", 1)]
    )
