"""A command that is killed at any moment and resumed ends with the bits of one that was not.

`--moments N` sets how many moments each command is killed at.
"""

import json
import random

import jax
import numpy as np
import pytest
import yaml

from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import load_model
from tests.resilience.worker import finish, kill

pytestmark = pytest.mark.slow

DATA = ["authors", "--authors", "4", "--forget-authors", "1"]
TRAIN = ["train", *DATA, "--epochs", "4", "--checkpoint-every", "3", "--log-every", "2"]
UNLEARN = ["unlearn", *DATA, "--method", "ofmu", "--epochs", "4", "--batch-size", "5"]
CONTEST = {
    "data": {"dataset": "authors", "authors": 4, "forget_authors": 1},
    "train": {"loop": {"epochs": 2, "checkpoint_every": 2}},
    "rules": {
        "epochs": 1,
        "batch_size": 5,
        "trials": 2,
        "seeds": 2,
        "utility": "retain",
        "max_new_tokens": 2,
    },
    "methods": {"grad_diff": {"search": {"learning_rate": [1e-5, 1e-4]}}},
}
# What a run took is another matter than what it gave.
COSTS = {
    "cost",
    "seconds",
    "compile_seconds",
    "search_seconds",
    "gradient_equivalents",
    "peak_memory_gib",
}


def without_costs(value):
    if isinstance(value, dict):
        return {k: without_costs(v) for k, v in value.items() if k not in COSTS}
    return [without_costs(v) for v in value] if isinstance(value, list) else value


def read(path):
    return without_costs(json.loads(path.read_text()))


def outcome_of_a_run(folder):
    params = load_model(folder).params
    bits = {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves(params)}
    return bits, read_metrics(folder), read(folder / "results.json")


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def outcome_of_an_evaluation(folder):
    return [(folder / name).read_bytes() for name in ("TOFU_EVAL.json", "TOFU_SUMMARY.json")]


def outcome_of_a_comparison(folder):
    lines = (folder / "runs.jsonl").read_text().splitlines()
    return read(folder / "results.json"), [without_costs(json.loads(line)) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained model and a cache of programs."""
    folder = tmp_path_factory.mktemp("place")
    finish([*TRAIN, "--out", folder / "original"], folder / "cache")
    (folder / "contest.yaml").write_text(yaml.safe_dump(CONTEST))
    return folder


COMMANDS = {
    "train": (TRAIN, outcome_of_a_run),
    "unlearn": ([*UNLEARN, "--checkpoint-every", "2"], outcome_of_a_run),
    "evaluate": (["evaluate", *DATA, "--max-new-tokens", "2"], outcome_of_an_evaluation),
    "compare": (["compare"], outcome_of_a_comparison),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_moment_changes_nothing(name, place, request):
    arguments, outcome = COMMANDS[name]
    if name in ("unlearn", "evaluate"):
        arguments = [*arguments, "--model", place / "original"]
    if name == "compare":
        arguments = [*arguments, place / "contest.yaml"]
    whole = place / f"{name}_whole"
    finish([*arguments, "--out", whole], place / "cache")
    # A second time, as the first one also compiled.
    usual = finish([*arguments, "--out", whole, "--overwrite"], place / "cache")
    expected = outcome(whole)
    moments = random.Random(name)
    for number in range(request.config.getoption("--moments")):
        run, seconds = place / f"{name}_{number}", moments.uniform(0, usual)
        while not kill([*arguments, "--out", run, "--overwrite"], place / "cache", seconds):
            seconds *= 0.7  # it was faster than usual
        finish([*arguments, "--out", run, "--resume"], place / "cache")
        assert outcome(run) == expected, f"{name} killed after {seconds:.2f} s"
