"""Evaluation of a model: per-item results, a summary and a report, saved metric by metric."""

import dataclasses
import json
import pathlib
from typing import Any

from tqdm import tqdm

from ofmu_jax.atomic import write_atomic
from ofmu_jax.data import load_muse
from ofmu_jax.errors import InputError
from ofmu_jax.evals import (
    Cost,
    Entry,
    Metric,
    Subject,
    multiple_choice_metrics,
    muse_metrics,
    run_suite,
    select,
    summary,
    tofu_metrics,
)
from ofmu_jax.models import FAMILIES
from ofmu_jax.models.families import Family
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import EvaluateConfig
from ofmu_jax.runs.datasets import data_dir, load_data, load_tasks
from ofmu_jax.runs.folder import check_folder, open_folder, write_json
from ofmu_jax.runs.models import Model, load_model
from ofmu_jax.runs.scorecard import scorecard
from ofmu_jax.scale import make_mesh

# One file per metric, in a folder of this name; what a rerun finds there it need not compute.
METRICS_FOLDER = "metrics"


class FolderStore:
    """Keeps each metric's result in a file of its own.

    Attributes:
      folder: where the files are.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, fingerprint: str) -> tuple[Entry, Cost] | None:
        """A metric's result, if it was stored under this fingerprint."""
        try:
            stored = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            if stored["fingerprint"] != fingerprint:
                return None
            return stored["entry"], Cost(**stored["cost"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: it is computed anew

    def write(self, name: str, fingerprint: str, entry: Entry, cost: Cost) -> None:
        """Writes the file whole or not at all."""
        stored = {"fingerprint": fingerprint, "cost": cost._asdict(), "entry": entry}
        write_json(self.folder / f"{name}.json", stored)


def result_files(dataset: str) -> tuple[str, str]:
    """The names of the files with the results by item and with the aggregates.

    >>> result_files("tofu")
    ('TOFU_EVAL.json', 'TOFU_SUMMARY.json')
    """
    # The embedded authors are evaluated as TOFU is.
    name = "TOFU" if dataset == "authors" else dataset.upper()
    return f"{name}_EVAL.json", f"{name}_SUMMARY.json"


EVAL, SUMMARY = result_files("tofu")


# What some data sets alone read.
_FLAGS = {
    "retain_results": ("tofu", "authors", "muse"),
    "reference_model": ("tofu", "authors", "muse"),
    "truth_ratio_mean": ("tofu", "authors"),
    "max_new_tokens": ("tofu", "authors"),
    "shots": ("wmdp", "mmlu"),
}


def evaluate(config: EvaluateConfig) -> pathlib.Path:
    """Evaluates as `ofmu evaluate` does; returns the run folder."""
    _check_flags(config)
    check_folder(config.output, config, same=False)
    keep_programs(cache_folder())
    subject = load_subject(config, config.model, config.adapter)
    suite = _suite(config, subject)
    folder = open_folder(config.output, config, same=False)

    bar = tqdm(total=len(suite), unit="metric", disable=None)

    def report(name: str, cost: Cost) -> None:
        bar.set_postfix_str(name)
        bar.update()

    store = FolderStore(folder / METRICS_FOLDER)
    results, costs = run_suite(suite, subject.identity(), store, report)
    bar.close()
    evaluated, aggregates = (folder / name for name in result_files(config.data.dataset))
    write_json(evaluated, results)
    write_json(aggregates, summary(results))
    text = scorecard(config.model, config.data.dataset, results, costs)
    write_atomic(folder / "report.md", text)
    print(text)
    return folder


def _check_flags(config: EvaluateConfig) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, datasets in _FLAGS.items():
        value = getattr(config, name)
        if value != defaults[name] and config.data.dataset not in datasets:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: {config.data.dataset} does not use it; only "
                f"{', '.join(datasets)} do"
            )


def load_subject(config: EvaluateConfig, source: str, adapter: str | None = None) -> Subject:
    """A model to evaluate, on the mesh that is asked for."""
    mesh = make_mesh(config.mesh)
    model = load_model(source, config.numerics, adapter, mesh)
    return Subject(
        model.config,
        model.params,
        model.tokenizer,
        config.data.template,
        config.batch_size,
        mesh if mesh.size > 1 else None,
        _family(model),
    )


def _family(model: Model) -> Family:
    stored = json.loads(model.layout.companions["config.json"]) if model.layout else {}
    return FAMILIES[stored.get("model_type", "llama")]


def _suite(config: EvaluateConfig, subject: Subject) -> dict[str, Metric]:
    """The metrics of the data set that are asked for."""
    wanted = [name.strip() for name in config.metrics.split(",") if name.strip()] or None
    if config.data.dataset in ("wmdp", "mmlu"):
        suite = multiple_choice_metrics(subject, load_tasks(config.data), shots=config.shots)
        return suite if wanted is None else select(suite, wanted)
    retain = None if config.retain_results is None else read_results(config.retain_results)
    reference = None
    if config.reference_model is not None:
        reference = load_subject(config, config.reference_model)
        if reference.tokenizer != subject.tokenizer:
            raise InputError(
                f"reference model {config.reference_model}: its tokenizer is not that of "
                f"{config.model}; expected a model whose losses per token can be compared"
            )
    if config.data.dataset == "muse":
        return muse_metrics(
            subject,
            load_muse(data_dir(config.data)),
            wanted=wanted,
            retain_results=retain,
            reference=reference,
        )
    suite = tofu_metrics(
        subject,
        load_data(config.data),
        max_new_tokens=config.max_new_tokens,
        truth_ratio_mean=config.truth_ratio_mean,
        retain_results=retain,
        reference=reference,
    )
    return suite if wanted is None else select(suite, wanted)


def read_results(path: str | pathlib.Path) -> dict[str, Any]:
    """A file of results by item, ours or open-unlearning's.

    Raises:
      InputError: if it cannot be read or is no such file.
    """
    try:
        results = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"evaluation {path}: {error}") from error
    entries = results.values() if isinstance(results, dict) else ()
    if not any(isinstance(entry, dict) and "agg_value" in entry for entry in entries):
        raise InputError(
            f"evaluation {path}: no metric with an agg_value; expected a TOFU_EVAL.json or the like"
        )
    return results
