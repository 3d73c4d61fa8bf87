"""The whole TOFU evaluation beside a plain `transformers` loop over the same items.

usage: python -m benchmarks.evaluation OUT.json MODEL TOFU_DIR [--threads N] [--rounds R]

MODEL is a Hugging Face folder. The loop reads batches of 32 in the order of the items, pads them to
their longest, takes one pass per set of answers, and generates with a key-value cache. It shares
one pass between the metrics of a set; open-unlearning takes one per metric, which is timed as
`per_metric`. Both programs run in turn in one process; the figure to quote is the ratio, and every
aggregate of the two is compared. Needs the peer extra.
"""

import argparse
import json
import os
import pathlib
import statistics
import time

BATCH, NEW_TOKENS = 32, 200
STAGES = ("losses", "tokens", "gradients", "generation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("data_dir")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.threads]))
    import torch

    from ofmu_jax.runs.config import versions

    torch.set_num_threads(arguments.threads)
    rows, deviations = compare(arguments.model, arguments.data_dir, arguments.rounds)
    results = {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "batch_size": BATCH,
        "max_new_tokens": NEW_TOKENS,
        "stages": rows,
        "largest_deviation": max(deviations.values()),
        "deviations": deviations,
        "versions": versions() | {"torch": torch.__version__},
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in rows.items():
        print(name, row)
    print("largest deviation of an aggregate", max(deviations.items(), key=lambda x: x[1]))


def compare(model: str, data_dir: str, rounds: int) -> tuple[dict, dict]:
    """Rows per stage, and by how much each aggregate differs."""
    from benchmarks.transformers_evaluation import Peer
    from ofmu_jax.data import load_tofu
    from ofmu_jax.evals import Subject, run_suite, summary, tofu_metrics
    from ofmu_jax.runs.models import load_model

    data = load_tofu(data_dir, "forget10")
    ours = load_model(model)
    subject = Subject(ours.config, ours.params, ours.tokenizer, batch_size=BATCH)
    peer = Peer(model, data, BATCH, NEW_TOKENS)

    def run_ours() -> tuple[dict, dict]:
        suite = tofu_metrics(subject, data, max_new_tokens=NEW_TOKENS)
        results, costs = run_suite(suite, model=None)
        seconds = dict.fromkeys(STAGES, 0.0)
        for name, cost in costs.items():
            seconds[stage(name)] += cost.seconds
        return summary(results), seconds

    start = time.perf_counter()
    run_ours()
    first = time.perf_counter() - start
    values: dict = {}
    times: dict = {"ours": [], "peer": [], "per_metric": []}
    for _ in range(rounds):
        for name, function in (
            ("ours", run_ours),
            ("peer", peer.evaluate),
            ("per_metric", lambda: peer.evaluate(share=False)),
        ):
            start = time.perf_counter()
            values[name], seconds = function()
            times[name].append(seconds | {"total": time.perf_counter() - start})
    rows = {
        name: {program: statistics.median(t[name] for t in times[program]) for program in times}
        for name in (*STAGES, "total")
    }
    for row in rows.values():
        row["ratio"] = row["peer"] / row["ours"]
        row["ratio_per_metric"] = row["per_metric"] / row["ours"]
    rows["total"]["first_call"] = first
    deviations = {name: abs(values["ours"][name] - x) for name, x in values["peer"].items()}
    return rows, deviations


def stage(metric: str) -> str:
    """Which part of the work a metric of ours belongs to."""
    if metric == "mia_gradnorm":
        return "gradients"
    if metric.endswith("ROUGE"):
        return "generation"
    if metric.startswith(("mia", "e")) or metric == "forget_Q_A_Prob":
        return "tokens"
    return "losses"


if __name__ == "__main__":
    main()
