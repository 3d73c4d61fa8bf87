"""Aggregates, intervals and costs of both evaluations, as results.json here.

usage: python -m experiments.tofu_evaluation.collect OUT    with OUT of run.sh
"""

import json
import pathlib
import sys

from ofmu_jax.runs.config import versions

HERE = pathlib.Path(__file__).parent


def main(out: str) -> None:
    results: dict = {"versions": versions()}
    for model in ("original", "retrained"):
        folder = pathlib.Path(out) / f"{model}_eval"
        metrics = {}
        for name, entry in json.loads((folder / "TOFU_EVAL.json").read_text()).items():
            kept = ("agg_value", "interval", "D", "n", "log10_p", "neighbours", "retain_auc")
            metrics[name] = {key: entry[key] for key in kept if key in entry}
            cost = json.loads((folder / "metrics" / f"{name}.json").read_text())["cost"]
            metrics[name] |= {"items": cost["items"], "seconds": cost["seconds"]}
        training = json.loads((pathlib.Path(out) / model / "results.json").read_text())
        results[model] = {"metrics": metrics, "training": training}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
