"""`ofmu demo`: from nothing to an unlearned model and its report, on the embedded authors."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from ofmu_jax.data import UnlearningData, encode_qa, take
from ofmu_jax.evals import Subject, evaluate_tofu, summary
from ofmu_jax.losses import language
from ofmu_jax.methods import GradAscent, GradDiff, Method, Npo, Ofmu
from ofmu_jax.models import forward
from ofmu_jax.runs import report
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import (
    DataConfig,
    LoopConfig,
    OutputConfig,
    TrainConfig,
    to_dict,
    versions,
)
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.evaluate import EVAL, SUMMARY
from ofmu_jax.runs.folder import CONFIG, RESULTS, open_folder, write_json
from ofmu_jax.runs.models import Model, has_model, load_model
from ofmu_jax.runs.train import train
from ofmu_jax.runs.unlearn import unlearn_model


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Train on fictitious authors, retrain without some, unlearn them, compare, report."""

    output: tyro.conf.OmitArgPrefixes[OutputConfig]
    seed: int = 0
    """Seed of the authors, of the models and of the order of the data."""
    cache_dir: str | None = None
    """Where trained models are kept for the next run; ofmu_jax in the user's cache by default."""
    epochs: float = 10.0
    """Passes over the forget set for each method."""
    batch_size: int = 8
    """Forget items, and retain items, per unlearning step."""
    train_epochs: float = 25.0
    """Passes over the training set for the original and the retrained model."""
    max_new_tokens: int = 32
    """Bound on the length of generated answers."""


# Chosen with the same number of trials for each method, on other seeds: experiments/demo_tuning.
METHODS: tuple[Method, ...] = (
    Ofmu(
        learning_rate=5.84e-4,
        inner_learning_rate=1.29e-4,
        beta=0.0769,
        rho=3.43e-5,
        forget_loss="npo",
        similarity_hvp="finite_difference",
    ),
    GradAscent(learning_rate=2.35e-4),
    GradDiff(learning_rate=7.56e-4, gamma=0.352),
    Npo(learning_rate=4.88e-4, gamma=0.108, beta=0.0721),
)


# What the table is made of, with what that needs.
_METRICS = ("forget_Q_A_Prob", "forget_quality", "model_utility")


class Task(NamedTuple):
    """What a method gets and is judged by.

    Attributes:
      model: the original model.
      data: what it is to forget and to retain.
      template: how a question becomes a prompt.
      evaluate: from parameters to TOFU's results, with the retrained model as the yardstick.
      retrained: the results of the retrained model.
      reused: whether both trained models were found in the cache.
    """

    model: Model
    data: UnlearningData
    template: str
    evaluate: Callable[[Any], dict[str, Any]]
    retrained: dict[str, Any]
    reused: bool


def prepare(config: DemoConfig, cache: pathlib.Path) -> Task:
    """Trains the original and the retrained model, or finds them in the cache."""
    data_config = DataConfig("authors", data_seed=config.seed)
    data = load_data(data_config)
    original, original_reused = _trained(config, data_config, "full", cache)
    retrained, retrained_reused = _trained(config, data_config, "retain", cache)
    model, yardstick = load_model(original), load_model(retrained)

    def evaluate(params: Any, **options: Any) -> dict[str, Any]:
        return evaluate_tofu(
            Subject(model.config, params, model.tokenizer, data_config.template),
            data,
            wanted=_METRICS,
            max_new_tokens=config.max_new_tokens,
            **options,
        )

    results = evaluate(yardstick.params)
    return Task(
        model,
        data,
        data_config.template,
        functools.partial(evaluate, retain_results=results),
        results,
        original_reused and retrained_reused,
    )


def enter(method: Method, task: Task, loop: LoopConfig, run: pathlib.Path) -> dict[str, Any]:
    """Unlearns with a method and evaluates; returns its row of the table."""
    target, result, steps = unlearn_model(
        task.model, task.data, method, loop, run, template=task.template
    )
    results = task.evaluate(target.params)
    write_json(run / EVAL, results)
    write_json(run / SUMMARY, summary(results))
    return report.row(results, task.retrained) | {
        "steps": steps,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
    }


def demo(config: DemoConfig) -> pathlib.Path:
    """Runs the demo; returns its folder."""
    began = time.perf_counter()
    cache = cache_folder(config.cache_dir)
    keep_programs(cache)
    folder = open_folder(config.output, config)
    task = prepare(config, cache)
    rows = {
        "original": report.row(task.evaluate(task.model.params), task.retrained),
        "retrained": report.row(task.retrained, task.retrained),
    }
    gradient_seconds = _seconds_per_gradient(task, config.batch_size)
    loop = LoopConfig(config.epochs, config.batch_size, config.seed, log_every=1)
    runs = {}
    for method in METHODS:
        run = runs[method.name] = folder / method.name
        run.mkdir()
        write_json(run / CONFIG, {"method": to_dict(method), "loop": to_dict(loop)})
        row = rows[method.name] = enter(method, task, loop, run)
        row["gradient_equivalents"] = row["seconds"] / gradient_seconds

    report.plot_trade_off(rows, folder / "trade_off.png")
    report.plot_diagnostics(runs, folder / "diagnostics.png")
    results = {
        "verdict": verdict(rows),
        "models": rows,
        "seed": config.seed,
        "forget_items": len(task.data.forget_eval),
        "gradient_seconds": gradient_seconds,
        "costs": {
            "seconds": time.perf_counter() - began,
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "reused_models": task.reused,
        },
        "versions": versions(),
    }
    write_json(folder / RESULTS, results)
    report.write_report(folder, results)
    print(report.table(rows))
    print(f"\n{results['verdict']}")
    print(f"report: {folder / 'report.md'}")
    return folder


def verdict(rows: dict[str, dict[str, Any]]) -> str:
    """Which method won, in one sentence, whoever it is."""
    ranked = sorted((m.name for m in METHODS), key=lambda name: rows[name]["score"], reverse=True)
    best, ours = ranked[0], rows[Ofmu.name]
    figures = (
        f"forget quality p = {ours['forget_quality']:.3g}, "
        f"{100 * ours['relative_utility']:.0f} % of the retrained model's utility"
    )
    if best == Ofmu.name:
        return (
            f"OFMU is the best of {len(ranked)} here: {figures}; "
            f"next comes {ranked[1]} with score {rows[ranked[1]]['score']:.3f} "
            f"against {ours['score']:.3f}. One seed proves no ranking."
        )
    return (
        f"OFMU is not the best here: {best} has score {rows[best]['score']:.3f}, OFMU "
        f"{ours['score']:.3f} ({figures}). One seed proves no ranking."
    )


def _trained(
    config: DemoConfig, data: DataConfig, split: str, cache: pathlib.Path
) -> tuple[pathlib.Path, bool]:
    """The run folder of a trained model, from the cache if it is there; and whether it was."""
    run = TrainConfig(
        data=data,
        output=OutputConfig(out=""),
        loop=LoopConfig(config.train_epochs, 16, config.seed, log_every=50, checkpoint_every=10**6),
        split=split,
    )
    items = [dataclasses.astuple(item) for item in load_data(data).full]
    identity = json.dumps(
        {"config": to_dict(run), "versions": versions(), "items": items}, sort_keys=True
    )
    folder = cache / "models" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if has_model(folder):
        return folder, True
    # Trained beside its place and moved there whole, so that an interrupted run leaves no half.
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    train(dataclasses.replace(run, output=OutputConfig(str(temporary), overwrite=True)))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder, False


def _seconds_per_gradient(task: Task, batch_size: int) -> float:
    """Median wall time of one gradient of one batch, the unit of the cost column."""
    encoded = encode_qa(task.model.tokenizer, [*task.data.forget, *task.data.retain], task.template)
    batch = take(encoded, np.arange(batch_size))
    apply_fn = functools.partial(forward, task.model.config)
    gradient = jax.jit(jax.grad(functools.partial(language.cross_entropy, apply_fn)))
    jax.block_until_ready(gradient(task.model.params, batch))
    times = []
    for _ in range(15):
        start = time.perf_counter()
        jax.block_until_ready(gradient(task.model.params, batch))
        times.append(time.perf_counter() - start)
    return statistics.median(times)
