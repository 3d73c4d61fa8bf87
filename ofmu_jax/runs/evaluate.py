"""Evaluation of a run's model: TOFU_EVAL.json and TOFU_SUMMARY.json."""

import json
import pathlib
from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.evals import evaluate_tofu, summary
from ofmu_jax.runs.config import EvaluateConfig
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.folder import check_folder, open_folder, write_json
from ofmu_jax.runs.models import load_model

EVAL, SUMMARY = "TOFU_EVAL.json", "TOFU_SUMMARY.json"


def evaluate(config: EvaluateConfig) -> pathlib.Path:
    """Evaluates as `ofmu evaluate` does; returns the run folder."""
    if config.output.resume and (pathlib.Path(config.output.out) / SUMMARY).is_file():
        check_folder(config.output, config)
        return pathlib.Path(config.output.out)
    data = load_data(config.data)
    model = load_model(config.model, config.numerics, config.adapter)
    retain = None if config.retain_results is None else read_results(config.retain_results)
    check_folder(config.output, config)
    results = evaluate_tofu(
        model.config,
        model.params,
        model.tokenizer,
        data,
        config.data.template,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        retain_results=retain,
    )
    folder = open_folder(config.output, config)
    write_json(folder / EVAL, results)
    write_json(folder / SUMMARY, summary(results))
    return folder


def read_results(path: str | pathlib.Path) -> dict[str, Any]:
    """A TOFU_EVAL.json.

    Raises:
      InputError: if it cannot be read or is no such file.
    """
    try:
        results = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"retain results {path}: {error}") from error
    if not isinstance(results, dict) or "forget_truth_ratio" not in results:
        raise InputError(
            f"retain results {path}: expected a TOFU_EVAL.json with forget_truth_ratio"
        )
    return results
