"""`ofmu attack`: tries to bring forgotten knowledge back; what it finds goes into attack.json."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ofmu_jax.atomic import write_atomic
from ofmu_jax.data import QAItem, UnlearningData, author_of_each
from ofmu_jax.errors import InputError
from ofmu_jax.evals import Subject
from ofmu_jax.robustness import Scores, as_trained, check_plain, encode_asked, recovery, variation
from ofmu_jax.robustness.questions import paraphrased
from ofmu_jax.runs.attack_config import ATTACKS, AttackConfig
from ofmu_jax.runs.attack_report import plot_curves, report, verdict
from ofmu_jax.runs.attack_trials import (
    ORIGINAL,
    PROBABILITY,
    RETRAINED,
    REWORDING,
    TRIALS,
    UNLEARNED,
    Target,
    Trial,
)
from ofmu_jax.runs.cache import cache_folder, keep_programs
from ofmu_jax.runs.config import ONE_DEVICE, EvaluateConfig, versions
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.evaluate import load_subject
from ofmu_jax.runs.folder import check_folder, open_run, write_json
from ofmu_jax.runs.replacing import let_go

RESULTS, CURVES = "attack.json", "curves.png"
# One file per attack in a folder of this name; what a resumed run finds there it need not compute.
_PARTS = "attacks"


def attack(config: AttackConfig) -> pathlib.Path:
    """Attacks as `ofmu attack` does; returns the run folder."""
    check_folder(config.output, config)
    data = load_data(config.data)
    chosen = choose(config, data)
    models = load_models(config)
    items = data.forget_eval[: config.items]
    known = data.retain_eval[: config.items]
    target = Target(config, models, items, known, data.forget_eval)
    _check_room(target)
    keep_programs(cache_folder())
    with open_run(config.output, config) as folder:
        results = run_attacks(target, chosen, folder / _PARTS)
        write_json(folder / RESULTS, results)
        plot_curves(results, folder / CURVES)
        write_atomic(folder / "report.md", report(results, config.model, CURVES))
    print(verdict(results))
    print(f"report: {folder / 'report.md'}")
    return folder


def choose(config: AttackConfig, data: UnlearningData) -> tuple[str, ...]:
    """The attacks that are asked for, or all that are possible.

    Raises:
      InputError: one is asked for by name that the data or the models do not allow.
    """
    items = data.forget_eval[: config.items]
    chosen = []
    for name in ATTACKS:
        if config.named and name not in config.named:
            continue
        try:
            _check_possible(name, config, items, data.retain_eval)
        except InputError:
            if config.named:
                raise
            continue
        chosen.append(name)
    return tuple(chosen)


def _check_possible(
    name: str, config: AttackConfig, items: Sequence[QAItem], known: Sequence[QAItem]
) -> None:
    if name == "interpolation" and config.original is None:
        raise InputError("attack interpolation needs --original, the model before unlearning")
    if name == "hard_questions" and config.data.dataset != "authors":
        raise InputError(
            f"attack hard_questions: dataset {config.data.dataset} has none; expected authors"
        )
    if name == "paraphrase":
        paraphrased(items, config.data.template)
    if name in ("prefix", "few_shot"):
        check_plain(config.data.template, name)
    if name == "probing" and not all(item.perturbed_answer for item in (*items, *known)):
        raise InputError("attack probing: an item has no wrong answers; expected perturbed_answer")


def load_models(config: AttackConfig) -> dict[str, Subject]:
    """The unlearned, the retrained and, if it is named, the original model.

    Raises:
      InputError: one cannot be read, or differs from the unlearned one in shape or tokenizer.
    """
    how = EvaluateConfig(
        config.data,
        config.output,
        config.model,
        batch_size=config.batch_size,
        numerics=config.numerics,
        mesh=ONE_DEVICE,
    )
    sources = {UNLEARNED: config.model, RETRAINED: config.retrained}
    if config.original is not None:
        sources[ORIGINAL] = config.original
    models = {name: load_subject(how, source) for name, source in sources.items()}
    ours = models[UNLEARNED]
    for name, model in models.items():
        if model.tokenizer != ours.tokenizer:
            raise InputError(
                f"--{name} {sources[name]}: its tokenizer is not that of {config.model}; expected "
                "models whose probabilities can be compared"
            )
        for field in dataclasses.fields(model.config):
            theirs, own = (getattr(m.config, field.name) for m in (model, ours))
            if theirs != own:
                raise InputError(
                    f"--{name} {sources[name]}: {field.name} is {theirs}; expected {own}, that of "
                    f"{config.model}"
                )
    return models


def _check_room(target: Target) -> None:
    """Raises InputError if an item, or its answer to be generated, does not fit the model."""
    own = as_trained(target.items, target.subject.template)
    limit, new_tokens = (
        target.subject.config.max_position_embeddings,
        target.config.max_new_tokens,
    )
    fits, _ = encode_asked(target.subject.tokenizer, target.items, own, limit, new_tokens)
    if len(fits) < len(target.items):
        bad = next(row for row in range(len(target.items)) if row not in fits)
        raise InputError(
            f"item {bad} has no room for max_new_tokens = {new_tokens} after its question within "
            f"the model's max_position_embeddings = {limit}"
        )


def run_attacks(target: Target, chosen: Sequence[str], parts: pathlib.Path) -> dict[str, Any]:
    """The content of attack.json.

    Args:
      target: the models and the items.
      chosen: names of attacks.
      parts: folder of their scores by item, which are not computed anew.
    """
    parts.mkdir(exist_ok=True)
    attacks: dict[str, list[dict[str, Any]]] = {}
    reworded: dict[str, list[np.ndarray]] = {name: [] for name in target.models}
    with tqdm(total=len(chosen), unit="attack", disable=None) as bar:
        for name in chosen:
            bar.set_postfix_str(name)
            trials = _trials(target, name, parts / f"{name}.json")
            attacks[name] = [outcome(target, trial) for trial in trials if len(trial.rows)]
            if name in REWORDING:
                for trial in trials:
                    for model, row in _by_item(target, trial).items():
                        reworded[model].append(row)
            bar.update()
    return {
        "items": len(target.items),
        "before": {
            measure: {name: float(values.mean()) for name, values in target.before(measure).items()}
            for measure in sorted({row["measure"] for rows in attacks.values() for row in rows})
        },
        "attacks": attacks,
        "variation": _variation(target, reworded),
        "strongest": {name: best for name, rows in attacks.items() if (best := strongest(rows))},
        "versions": versions(),
    }


def outcome(target: Target, trial: Trial) -> dict[str, Any]:
    """What a trial says: before, after, and the recovery ratios."""
    before = {m: values[trial.rows] for m, values in target.before(trial.measure).items()}
    found = recovery(
        Scores(
            before.get(ORIGINAL),
            before[UNLEARNED],
            trial.scores[UNLEARNED],
            before[RETRAINED],
            trial.scores[RETRAINED],
        ),
        author_of_each([target.items[row] for row in trial.rows]),
    )
    return {
        "setting": trial.setting,
        "x": trial.x,
        "curve": trial.curve,
        "measure": trial.measure,
        "items": len(trial.rows),
        "counts": trial.counts,
        "before": {name: float(values.mean()) for name, values in before.items()},
        "after": {name: float(values.mean()) for name, values in trial.scores.items()},
        "recovery": found._asdict(),
    }


def strongest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The setting with the greatest excess recovery; without an original, the greatest excess gain.

    None if no setting counts, or none had anything to recover. One that left a model without finite
    figures, as relearning at too high a rate does, recovers nothing.
    """
    counted = [row for row in rows if row["counts"]]
    ratios = any(ORIGINAL in row["before"] for row in counted)
    key = "excess" if ratios else "excess_gain"
    counted = [
        row for row in counted if (x := row["recovery"][key]) is not None and math.isfinite(x)
    ]
    return max(counted, key=lambda row: row["recovery"][key], default=None)


def _by_item(target: Target, trial: Trial) -> dict[str, np.ndarray]:
    """(items,) by model, NaN where the trial does not ask; nothing of measures but probability."""
    if trial.measure != PROBABILITY or not len(trial.rows):
        return {}
    result = {name: np.full(len(target.items), np.nan) for name in trial.scores}
    for name, row in result.items():
        row[trial.rows] = trial.scores[name]
    return result


def _variation(target: Target, reworded: Mapping[str, list[np.ndarray]]) -> dict[str, Any]:
    """By model, over the questions as they are and all their transformations."""
    return {
        name: {"transformations": len(rows)}
        | variation(np.stack([target.before(PROBABILITY)[name], *rows]))._asdict()
        for name, rows in reworded.items()
        if rows
    }


def _trials(target: Target, name: str, path: pathlib.Path) -> list[Trial]:
    """The trials of an attack, from the file if it is there whole."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return [
            Trial(**row)._replace(
                rows=np.array(row["rows"], np.int64),
                scores={model: np.array(values) for model, values in row["scores"].items()},
            )
            for row in stored
        ]
    except (OSError, ValueError, KeyError, TypeError):
        trials = list(TRIALS[name](target))  # absent or damaged: it is computed anew
    let_go(path.parents[1])  # from here on the run has something to lose
    write_json(
        path,
        [
            trial._asdict()
            | {
                "rows": trial.rows.tolist(),
                "scores": {model: values.tolist() for model, values in trial.scores.items()},
            }
            for trial in trials
        ],
    )
    return trials
