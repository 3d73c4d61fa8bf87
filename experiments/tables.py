"""The tables of docs/, from committed results.

usage: python -m experiments.tables    rewrites them in place
"""

import json
import pathlib
import re

from benchmarks.step_cost.tables import (
    step_costs,
    step_curves,
    step_goals,
    step_memory,
    step_peers,
    step_profile,
)
from experiments.comparisons import (
    ablations,
    cifar10_subset,
    fashion_class,
    fashion_random,
    ofmu_plus_ablations,
    pocket_authors,
    pocket_authors_twice,
    pocket_tofu,
    pocket_tofu_01,
    pocket_tofu_05,
    sensitivity,
    tofu_from_scratch,
    update_rules,
)
from experiments.full_size.tables import full_size
from experiments.plans.tables import plans
from experiments.pocket_authors.cost import quality_per_cost
from experiments.requests.tables import deletion_requests, deletion_requests_tofu, retain_data
from experiments.robustness.tables import robustness
from experiments.tofu_passes.tables import tofu_passes
from ofmu_jax.contest.cells import number, table

ROOT = pathlib.Path(__file__).parents[1]


def _read(path: str) -> dict:
    return json.loads((ROOT / path).read_text())


def families() -> str:
    lines = [
        "| model | model_type | whole sequences | padded on the left | largest logit | greedy |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in _read("experiments/families/results.json")["rows"].items():
        same = "identical" if row["equal_continuations"] else "differs"
        lines.append(
            f"| {name} | {row['model_type']} | {row['whole']:.1e} | {row['padded']:.1e} | "
            f"{row['largest_logit']:.1f} | {same} |"
        )
    return "\n".join(lines)


def generation() -> str:
    results = _read("benchmarks/results/generation.json")
    versions = results["versions"]
    lines = [
        f"Greedy, {results['new_tokens']} new tokens, float32, {results['threads']} CPU thread(s), "
        f"median of {results['rounds']} rounds in turn; jax {versions['jax']}, torch "
        f"{versions['torch']}. `python -m benchmarks.generation` with its output path.",
        "",
        "| model | workload | tokens/s | transformers | ratio | first call, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['model']} ({row['parameters'] / 1e6:.1f} M) | {row['workload']} | "
            f"{row['tokens_per_second']:.0f} | {row['peer_tokens_per_second']:.0f} | "
            f"{row['ratio']:.2f} | {row['first_call_seconds']:.1f} |"
        )
    return "\n".join(lines)


def memorised() -> str:
    results = _read("experiments/tinystories_tofu/results.json")
    lines = [
        "TinyStories-656K fine-tuned on all 4,000 items of TOFU, then OFMU on forget10 "
        "(`experiments/tinystories_tofu/run.sh`; one seed, nothing tuned on TOFU). Probability of "
        "an answer: the geometric mean over its tokens, averaged over items.",
        "",
        "| model | all 4,000 | forget10 | retain90 | steps | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("memorised", "ofmu"):
        row = results[name]
        lines.append(
            f"| {name} | {row['answer_probability']:.3f} | {row['forget']:.3f} | "
            f"{row['retain']:.3f} | {row['steps']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def tofu_evaluation() -> str:
    results = _read("experiments/tofu_evaluation/results.json")
    original, retrained = (results[m]["metrics"] for m in ("original", "retrained"))
    quality = original["forget_quality"]
    below, above = (f"{p:.3g}" for p in quality["neighbours"])
    lines = [
        "TinyStories-656K fine-tuned on all of TOFU (original) and without forget10 (retrained), "
        "60 epochs, one seed; the reference model is the one before fine-tuning. "
        "`experiments/tofu_evaluation/run.sh`; jax "
        f"{results['versions']['jax']}, one CPU core.",
        "",
        "| metric | original | 95 % interval | retrained | 95 % interval | items | items/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in original.items():
        cells = [name]
        for entry in (row, retrained[name]):
            value, interval = entry["agg_value"], entry.get("interval")
            cells.append("-" if value is None else f"{value:.3g}")
            cells.append("-" if interval is None else " to ".join(f"{x:.3g}" for x in interval))
        rate = f"{row['items'] / row['seconds']:.0f}" if row["items"] else "-"
        cells += [str(row["items"] or "-"), rate]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Forget quality of the original: D = {quality['D']:.4f}, n = {quality['n']}, log10 p = "
        f"{quality['log10_p']:.2f}; the next attainable p-values are {below} and {above}. Items "
        "per second are the original's, whose evaluation found the programs compiled by the other; "
        "they include the passes that a metric was the first to need.",
    ]
    return "\n".join(lines)


def evaluation_speed() -> str:
    results = _read("benchmarks/results/evaluation.json")
    versions = results["versions"]
    lines = [
        "The evaluation above of the original model, 1,017 questions and 6,868 answers, beside a "
        "plain loop in `transformers` that shares one pass between the metrics of a set, and "
        "beside the same loop with a pass per metric, as open-unlearning has it. "
        f"{results['threads']} CPU thread(s), median seconds of {results['rounds']} rounds in "
        f"turn; jax {versions['jax']}, torch {versions['torch']}. `python -m "
        "benchmarks.evaluation` with its output path, a checkpoint and TOFU's folder.",
        "",
        "| part | ours | transformers | ratio | pass per metric | ratio |",
        "|---|---|---|---|---|---|",
    ]
    titles = {
        "losses": "answer losses",
        "tokens": "token statistics: memorisation, four attacks",
        "gradients": "gradient norms",
        "generation": "generation and ROUGE",
        "total": "all",
    }
    for name, row in results["stages"].items():
        lines.append(
            f"| {titles[name]} | {row['ours']:.1f} | {row['peer']:.1f} | {row['ratio']:.2f} | "
            f"{row['per_metric']:.1f} | {row['ratio_per_metric']:.2f} |"
        )
    first = results["stages"]["total"]["first_call"]
    lines += [
        "",
        f"The first evaluation in a process, with compilation, took {first:.0f} s; `ofmu evaluate` "
        "keeps compiled programs in the user's cache for the next. Largest difference of any "
        f"aggregate between the two: {results['largest_deviation']:.1e}.",
    ]
    return "\n".join(lines)


def u_lira() -> str:
    results = _read("experiments/u_lira/results.json")
    config, versions = results["config"], results["versions"]

    def cell(figure: dict) -> str:
        return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**figure)

    columns = {
        "AUC": lambda m: cell(m["auc"]),
        "accuracy": lambda m: cell(m["accuracy"]),
        "TPR at FPR 0.01": lambda m: cell(m["tpr_at_fpr_0.01"]),
        "seconds, one after another": lambda m: number(
            m.get("seconds", {}).get("one after another"), 1
        ),
        f"{config['population']} at once": lambda m: number(
            m.get("seconds", {}).get(f"{config['population']} at once"), 1
        ),
    }
    return "\n".join(
        [
            f"`python -m experiments.u_lira.run --out OUT.json`; jax {versions['jax']}, Python "
            f"{versions['python']}, two CPU cores; {config['shadows']} pairs of shadow models, "
            f"{config['attacked']} attacked; brackets are 95 % intervals over the models attacked.",
            "",
            table(columns, results["methods"]),
        ]
    )


PAGES = {
    "README.md": (pocket_authors,),
    "docs/comparison.md": (
        pocket_tofu,
        pocket_tofu_05,
        pocket_tofu_01,
        tofu_from_scratch,
        tofu_passes,
        pocket_authors_twice,
        sensitivity,
        ablations,
        ofmu_plus_ablations,
        update_rules,
    ),
    "docs/models.md": (families, generation, memorised),
    "docs/evaluation.md": (tofu_evaluation, evaluation_speed),
    "docs/full_size.md": (full_size,),
    "docs/performance.md": (
        step_goals,
        step_costs,
        step_memory,
        step_curves,
        step_peers,
        step_profile,
        quality_per_cost,
    ),
    "docs/robustness.md": (robustness,),
    "docs/requests.md": (deletion_requests, deletion_requests_tofu, retain_data),
    "docs/scale.md": (plans,),
    "docs/vision.md": (fashion_random, fashion_class, cifar10_subset, u_lira),
}


def render(path: str) -> str:
    """A page with each of its tables made anew."""
    page = (ROOT / path).read_text(encoding="utf-8")
    for make in PAGES[path]:
        name = make.__name__
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page, count = re.subn(
            pattern, lambda m, t=make: m[1] + t() + "\n" + m[2], page, flags=re.DOTALL
        )
        assert count == 1, name
    return page


if __name__ == "__main__":
    for path in PAGES:
        text = render(path)
        (ROOT / path).write_text(text, encoding="utf-8")
