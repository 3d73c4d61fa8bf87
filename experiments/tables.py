"""The tables of docs/models.md, from committed results.

usage: python -m experiments.tables    rewrites them in place
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"


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


def render(page: str) -> str:
    """The page with every table made anew."""
    for table in (families, generation, memorised):
        name = table.__name__
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page, count = re.subn(
            pattern, lambda m, t=table: m[1] + t() + "\n" + m[2], page, flags=re.DOTALL
        )
        assert count == 1, name
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
