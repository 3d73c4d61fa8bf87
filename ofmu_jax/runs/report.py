"""The demo's tables and plots, from its results alone."""

import math
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ofmu_jax.atomic import write_atomic
from ofmu_jax.runs.folder import read_metrics, write_figure

_TITLES = {
    "forget_loss": "forget loss, as each method defines it",
    "retain_loss": "retain loss (nats per token)",
    "cosine": "cos(grad forget, grad retain)",
    "forget_norm": "|grad forget|",
    "phi_norm": "|grad Phi|",
    "curvature": "curvature sign s (> 0: the penalty re-memorises)",
}
_COLUMNS = {
    "forget_quality": "forget quality p",
    "ks_distance": "KS D",
    "model_utility": "model utility",
    "relative_utility": "utility / retrained",
    "forget_probability": "forget prob",
    "retain_probability": "retain prob",
    "score": "score",
    "seconds": "seconds",
    "gradient_equivalents": "gradients",
}


def score(p: float | None, relative_utility: float) -> float:
    """Harmonic mean of forget quality and utility relative to the retrained model's, at most 1.

    One number for "forgets and retains": 0 if it fails at either.
    """
    if not p or not relative_utility > 0:  # also where the retrained model has no utility: NaN
        return 0.0
    utility = min(relative_utility, 1.0)
    return 2 * p * utility / (p + utility)


def row(results: dict[str, Any], retrained: dict[str, Any]) -> dict[str, Any]:
    """The figures of one model for the table.

    Args:
      results: TOFU's results of the model.
      retrained: those of the retrained model, itself the yardstick.
    """
    itself = results is retrained
    quality = {"agg_value": 1.0, "D": 0.0, "log10_p": 0.0} if itself else results["forget_quality"]
    utility = results["model_utility"]["agg_value"]
    yardstick = retrained["model_utility"]["agg_value"]
    relative = utility / yardstick if yardstick else math.nan
    return {
        "forget_quality": quality["agg_value"],
        "ks_distance": quality["D"],
        "log10_p": quality["log10_p"],
        "model_utility": utility,
        "relative_utility": relative,
        "forget_probability": results["forget_Q_A_Prob"]["agg_value"],
        "retain_probability": results["retain_Q_A_Prob"]["agg_value"],
        "score": score(quality["agg_value"], relative),
    }


def table(models: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one row per model."""
    lines = [
        "| model | " + " | ".join(_COLUMNS.values()) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for name, row in models.items():
        cells = [_cell(column, row.get(column)) for column in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if column == "forget_quality":
        return f"{value:.3g}"
    if column in ("seconds", "gradient_equivalents"):
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return f"{value:.3f}"


def plot_trade_off(models: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Forget quality against model utility, one point per model."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), constrained_layout=True)
    markers = iter("osDv^<>Pp*XhH8" * 4)
    for name, row in models.items():
        if row["forget_quality"] is None:
            continue
        y = math.log10(max(row["forget_quality"], 1e-300))
        axes.scatter(row["model_utility"], y, s=70, marker=next(markers), label=name, zorder=3)
    axes.axhline(math.log10(0.05), color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("p = 0.05", (0.01, math.log10(0.05)), xycoords=("axes fraction", "data"))
    axes.set_xlabel("model utility (harmonic mean of nine)")
    axes.set_ylabel("log10 forget quality (KS p against retrained)")
    axes.set_title("Forgetting against utility: up and to the right is better")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(path, figure)


def plot_diagnostics(folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Losses and diagnostics of every unlearning run against the step."""
    records = {name: read_metrics(folder) for name, folder in folders.items()}
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    for axes, (key, title) in zip(grid.flat, _TITLES.items(), strict=True):
        # A colour belongs to a method, also in panels where another method has no curve.
        for index, (name, rows) in enumerate(records.items()):
            points = [(r["step"], r[key]) for r in rows if r[key] is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    label=name,
                    color=f"C{index}",
                    marker=".",
                    linewidth=1,
                )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if key == "curvature":
            axes.axhline(0.0, color="black", linewidth=0.8)
    grid.flat[0].legend(fontsize=8)
    write_figure(path, figure)


def write_report(folder: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes `report.md` from `results.json`'s content."""
    costs = results["costs"]
    lines = [
        "# Unlearning fictitious authors",
        "",
        results["verdict"],
        "",
        table(results["models"]),
        "",
        "Forget quality is the exact two-sided Kolmogorov-Smirnov p-value between the truth ratios "
        f"of the model and of the retrained one on {results['forget_items']} forget items (1 is "
        "indistinguishable; with so few items p takes few values, hence D beside it). Score is the "
        "harmonic mean of forget quality and relative utility. Seconds are those of the unlearning "
        "steps without compilation; gradients are the same in units of one gradient of one batch, "
        "timed in this process.",
        "",
        "![trade-off](trade_off.png)",
        "",
        "![losses and diagnostics](diagnostics.png)",
        "",
        "## Conditions",
        "",
        f"One seed ({results['seed']}); wall time {costs['seconds']:.0f} s, peak memory "
        f"{costs['peak_memory_gib']:.2f} GiB, trained models "
        f"{'reused' if costs['reused_models'] else 'trained in this run'}. "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + ". Regenerated by `ofmu demo --out DIR`; every value of the config is in `config.json`.",
        "",
    ]
    write_atomic(folder / "report.md", "\n".join(lines))
