"""A comparison of image classifiers through the command line."""

import json

import jax
import numpy as np
import pytest
import yaml

from ofmu_jax.cli import main
from ofmu_jax.contest.config import CompareConfig, read_contest
from ofmu_jax.contest.image_arena import ImageArena
from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.contest.population import Outcome
from ofmu_jax.runs.config import OutputConfig
from tests.command_line import refused

FILE = {
    "data": {"dataset": "digits", "train_rows": 200},
    "train": {"width": 4, "loop": {"epochs": 2, "batch_size": 32}},
    "rules": {"batch_size": 32, "trials": 4, "seeds": 2, "population": 2},
    "methods": {
        "fine_tune": {"epochs": 1, "search": {"learning_rate": [1e-3, 1e-1]}},
        "ofmu_plus": {"epochs": 1, "search": {"inner_learning_rate": {"choices": [1e-3, 1e30]}}},
    },
}


def write(path, **changes):
    path.write_text(yaml.safe_dump({**FILE, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = write(folder / "contest.yaml")
    assert main(["compare", str(config), "--out", str(folder / "out")]) == 0
    return folder


def runs(whole):
    return [r for r in Ledger(whole / "out" / "runs.jsonl").read() if r["stage"] != "reference"]


def test_methods_are_ranked_by_their_gaps(whole):
    results = json.loads((whole / "out" / "results.json").read_text())
    summary = results["summary"]
    gaps = {
        name: values["figures"]["average_gap"]["mean"]
        for name, values in summary["methods"].items()
        if values["finals"] > values["diverged_finals"]
    }
    assert summary["ranking"][0] == min(gaps, key=gaps.get)
    references = {r["method"]: r["figures"] for r in results["references"]}
    assert references["retrained"]["average_gap"] == 0
    assert references["original"]["score"] == -references["original"]["average_gap"]
    report = (whole / "out" / "report.md").read_text()
    assert "| method | average gap | UA |" in report and "average gap is the\nmean" in report
    assert (whole / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_records_hold_signed_gaps_costs_and_divergence(whole):
    records = runs(whole)
    assert len(records) == 2 * (4 + 2)
    for record in records:
        figures, cost = record["figures"], record["cost"]
        if record["status"] == "diverged":
            assert record["point"]["inner_learning_rate"] == 1e30 and record["objective"] == 0
            continue
        gaps = [figures[f"{name}_gap"] for name in ("ua", "ra", "ta", "mia")]
        np.testing.assert_allclose(figures["average_gap"], np.mean(np.abs(gaps)))
        np.testing.assert_allclose(record["objective"], 1 / (1 + figures["average_gap"]))
        assert cost["seconds"] > 0 and cost["peak_memory_gib"] > 0
        # One pass over 162 rows in batches of 32: 6 gradients, or 6 steps of at least two.
        least = 6 if record["method"] == "fine_tune" else 12
        assert least * 0.9 <= cost["gradient_equivalents"] <= least * 3
    assert any(r["status"] == "diverged" for r in records)


def test_what_is_selected_on_is_not_what_is_reported(whole):
    records = [r for r in runs(whole) if r["status"] == "ok"]
    # 18 forgotten images: 9 to select by and 9 to report.
    for record in records:
        assert round(record["figures"]["ua"] * 9 / 100, 6).is_integer()


def test_a_model_whose_logits_are_not_finite_has_diverged(whole, tmp_path):
    given = CompareConfig(str(whole / "contest.yaml"), OutputConfig("unused"))
    arena = ImageArena(read_contest(given), whole / "out", 0)
    params = jax.tree.map(lambda x: x * 1e30, arena.original.variables.params)
    broken = arena.original.variables._replace(params=params)
    for _ in range(2):  # the retrained model's figures are known the second time
        record = arena.record(Outcome(broken, {}, False, 1.0, 0.0, 1.0, 1.0), "select")
        assert (record["status"], record["objective"], record["figures"]) == ("diverged", 0.0, {})
    whole_one = Outcome(arena.original.variables, {}, False, 1.0, 0.0, 1.0, 1.0)
    assert arena.record(whole_one, "select")["status"] == "ok"


def test_a_finished_comparison_runs_nothing_again(whole, capsys):
    before = (whole / "out" / "runs.jsonl").read_text()
    arguments = ["compare", str(whole / "contest.yaml"), "--out", str(whole / "out"), "--resume"]
    assert main(arguments) == 0
    assert (whole / "out" / "runs.jsonl").read_text() == before
    capsys.readouterr()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"npo": {"search": {"learning_rate": [0.1, 1.0]}}}}, "unknown method 'npo'"),
        ({"rules": {"utility": "model"}}, "ImageRules has no field 'utility'"),
        ({"train": {"model": "resnet19"}}, "resnet19"),
        ({"methods": {"scrub": {"search": {"epochs": {"choices": [0.5]}}}}}, "whole number"),
    ],
)
def test_what_belongs_to_another_kind_is_refused(changes, message, capsys, tmp_path):
    path = write(tmp_path / "contest.yaml", **changes)
    arguments = ["compare", path, "--out", tmp_path / "out"]
    assert message in refused(capsys, tmp_path, *arguments)
