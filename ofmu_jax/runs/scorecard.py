"""The report of an evaluation, from its results alone."""

from collections.abc import Mapping
from typing import Any

from ofmu_jax.evals import Cost, direction

_BETTER = {"lower": "lower", "higher": "higher", "zero": "nearer 0", "half": "nearer 0.5"}


def scorecard(
    model: str, dataset: str, results: Mapping[str, Mapping[str, Any]], costs: Mapping[str, Cost]
) -> str:
    """Markdown: every aggregate with its interval, its direction and its speed.

    Args:
      model: what was evaluated.
      dataset: on what.
      results: the metrics' entries.
      costs: what each took.

    Returns:
      The text of report.md.
    """
    lines = [
        f"# {model} on {dataset}",
        "",
        "| metric | value | 95 % interval | items | better | items/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in results.items():
        cost = costs[name]
        cells = [
            name,
            _number(entry["agg_value"]),
            " to ".join(map(_number, entry.get("interval") or ())) or "-",
            str(cost.items or "-"),
            _BETTER[direction(name)],
            f"{cost.items / cost.seconds:.0f}" if cost.items and cost.seconds else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    quality = results.get("forget_quality", {})
    if quality.get("agg_value") is not None:
        below, above = ("none" if p is None else f"{p:.3g}" for p in quality["neighbours"])
        lines += [
            "",
            f"Forget quality: D = {quality['D']:.4f} on n = {quality['n']} items, "
            f"log10 p = {quality['log10_p']:.3f}. The attainable p-values next to it are {below} "
            f"below and {above} above.",
        ]
    if "privleak" in results:
        lines += ["", f"privleak compares with an AUC of {results['privleak']['retain_auc']:.4g}."]
    lines += [
        "",
        "Intervals are percentile bootstraps over items: they say how the choice of items matters, "
        "not what another seed of training would give. Items per second include compilation and "
        "the passes of the model that a metric was the first to need; later ones share them.",
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
