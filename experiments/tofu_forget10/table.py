"""Gathers the figures of a finished run.sh: python -m experiments.tofu_forget10.table OUT."""

import json
import pathlib
import sys

from ofmu_jax.runs import report
from ofmu_jax.runs.evaluate import EVAL, read_results
from ofmu_jax.runs.folder import CONFIG, RESULTS, write_json

MODELS = ("original", "retrained", "ofmu", "npo", "grad_diff", "grad_ascent")


def main(out):
    """Writes results.json beside this file and prints the table."""
    out = pathlib.Path(out)
    retrained = read_results(out / "retrained_eval" / EVAL)
    rows, costs = {}, {}
    for name in MODELS:
        results = retrained if name == "retrained" else read_results(out / f"{name}_eval" / EVAL)
        rows[name] = report.row(results, retrained)
        costs[name] = json.loads((out / name / RESULTS).read_text())
        if name not in ("original", "retrained"):
            rows[name] |= {key: costs[name][key] for key in ("steps", "seconds", "compile_seconds")}
    config = json.loads((out / "ofmu" / CONFIG).read_text())
    write_json(
        pathlib.Path(__file__).parent / RESULTS,
        {
            "models": rows,
            "costs": costs,
            "seed": config["config"]["loop"]["seed"],
            "versions": config["versions"],
        },
    )
    print(report.table(rows))


if __name__ == "__main__":
    main(sys.argv[1])
