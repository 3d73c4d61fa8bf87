"""Whole comparisons through the command line: equal budgets, resumed, recorded, reported."""

import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import yaml

from ofmu_jax.cli import main
from ofmu_jax.contest.arena import Arena, half
from ofmu_jax.contest.compare import report
from ofmu_jax.contest.config import CompareConfig, read_contest
from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.contest.trained_once import check_trained, trainings
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import DataConfig, OutputConfig
from ofmu_jax.runs.datasets import load_data
from ofmu_jax.runs.folder import open_folder
from tests.command_line import refused

FILE = {
    "data": {"dataset": "authors", "authors": 6, "forget_authors": 2},
    "train": {"loop": {"epochs": 2}},
    "rules": {
        "epochs": 1,
        "batch_size": 10,
        "trials": 3,
        "seeds": 2,
        "utility": "retain",
        "max_new_tokens": 4,
    },
    "methods": {
        "grad_diff": {"search": {"learning_rate": [1e-5, 1e-4]}},
        "npo": {
            "search": {
                "learning_rate": [1e-5, 1e-4],
                "update_rule": {"choices": ["sum", "pcgrad"]},
            }
        },
    },
}


def write(path, **changes):
    path.write_text(yaml.safe_dump({**FILE, **changes}), encoding="utf-8")
    return path


def compare(*arguments):
    return main(["compare", *map(str, arguments)])


def results(out):
    return json.loads((out / "results.json").read_text())


def runs(out):
    return [r for r in Ledger(out / "runs.jsonl").read() if r["stage"] != "reference"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = write(folder / "contest.yaml")
    assert compare(config, "--out", folder / "out") == 0
    return folder


def test_every_method_has_the_same_trials_and_then_seeds(whole):
    out, summary = whole / "out", results(whole / "out")["summary"]
    for label in FILE["methods"]:
        mine = [r for r in runs(out) if r["method"] == label]
        search = [r for r in mine if r["stage"] == "search"]
        finals = [r for r in mine if r["stage"] == "final"]
        assert sorted(r["trial"] for r in search) == [0, 1, 2]
        assert [r["seed"] for r in finals] == [1, 2] and {r["seed"] for r in search} == {0}
        best = max(search, key=lambda r: (r["objective"], -r["trial"]))
        assert {r["trial"] for r in finals} == {best["trial"]}
        assert summary["methods"][label]["best"]["point"] == best["point"]
        assert summary["methods"][label]["finals"] == 2
        assert summary["methods"][label]["cost"]["gradient_equivalents"] >= 2
    assert {r["point"]["update_rule"] for r in runs(out) if r["method"] == "npo"} == {
        "sum",
        "pcgrad",
    }
    references = results(out)["references"]
    assert [r["method"] for r in references] == ["original", "retrained"]
    assert references[1]["figures"]["forget_quality"] == 1
    report = (out / "report.md").read_text()
    assert "| grad_diff |" in report and "\n\n\n" not in report
    for name in ("pareto.png", "sensitivity.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_what_is_selected_on_is_not_what_is_reported(whole, tmp_path, monkeypatch):
    halves = []
    judge = Arena.record

    def record(self, outcome, which):
        halves.append(which)
        return judge(self, outcome, which)

    monkeypatch.setattr(Arena, "record", record)
    out = tmp_path / "out"
    shutil.copytree(whole / "out" / "models", out / "models")
    shutil.copy(whole / "out" / "config.json", out)
    rules = {**FILE["rules"], "trials": 2, "finalists": 2, "confirmations": 1}
    config = write(tmp_path / "contest.yaml", rules=rules)
    assert compare(config, "--out", out, "--resume", "--methods", "grad_diff") == 0
    stages = [r["stage"] for r in runs(out)]
    assert stages == ["search"] * 2 + ["confirm"] * 2 + ["final"] * 2
    assert halves == ["select"] * 4 + ["report"] * 2


def test_halves_have_no_item_and_no_author_in_common():
    data = load_data(DataConfig("authors", authors=6, forget_authors=2))
    select, report = half(data, "select"), half(data, "report")
    for name in ("forget_eval", "retain_eval", "real_authors", "world_facts"):
        first, second, items = (getattr(d, name) for d in (select, report, data))
        assert first and first + second == items
    # Ten items of an author.
    assert [len(d.forget_eval) for d in (select, report)] == [10, 10]


def test_nothing_that_is_there_is_run_again_and_more_trials_go_on(whole, capsys):
    out = whole / "out"
    before = (out / "runs.jsonl").read_text()
    assert compare(whole / "contest.yaml", "--out", out, "--resume") == 0
    assert (out / "runs.jsonl").read_text() == before
    more = write(whole / "more.yaml", rules={**FILE["rules"], "trials": 4})
    assert compare(more, "--out", out, "--resume", "--methods", "npo") == 0
    after = (out / "runs.jsonl").read_text()
    assert after.startswith(before)
    added = [json.loads(line) for line in after[len(before) :].splitlines()]
    assert [(r["stage"], r["trial"]) for r in added if r["stage"] == "search"] == [("search", 3)]
    assert {r["method"] for r in added} == {"npo"}
    capsys.readouterr()


@pytest.mark.slow
def test_results_name_the_folders_of_nobody_s_machine(tmp_path):
    data = tmp_path / "data"
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    given = CompareConfig(
        str(write(tmp_path / "contest.yaml", data={"dataset": "tofu"})),
        OutputConfig("unused"),
        data_dir=str(data),
        model=str(checkpoint),
    )
    report(read_contest(given), Ledger(tmp_path / "runs.jsonl"), tmp_path)
    stated = results(tmp_path)["contest"]
    assert stated["train"]["model"] == "checkpoint" and stated["data"]["data_dir"] is None
    for name in ("results.json", "report.md"):
        assert str(tmp_path) not in (tmp_path / name).read_text()


def test_the_best_trials_are_run_again_before_one_is_chosen(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    before = (out / "runs.jsonl").read_text()
    rules = {**FILE["rules"], "finalists": 2, "confirmations": 2}
    config = write(tmp_path / "contest.yaml", rules=rules)
    assert compare(config, "--out", out, "--resume", "--methods", "grad_diff") == 0
    after = (out / "runs.jsonl").read_text()
    assert after.startswith(before)
    mine = [r for r in runs(out) if r["method"] == "grad_diff"]
    search = {r["trial"]: r["objective"] for r in mine if r["stage"] == "search"}
    again = {}
    for r in mine:
        if r["stage"] == "confirm":
            again.setdefault(r["trial"], []).append(r)
    finalists = sorted(search, key=lambda trial: (-search[trial], trial))[:2]
    assert sorted(again) == sorted(finalists)
    assert all(len({r["seed"] for r in again[trial]} - {0, 1, 2}) == 2 for trial in finalists)
    means = {
        trial: statistics.fmean([search[trial], *(r["objective"] for r in again[trial])])
        for trial in finalists
    }
    best = results(out)["summary"]["methods"]["grad_diff"]["best"]["trial"]
    assert means[best] == max(means.values())
    assert {r["seed"] for r in mine if r["stage"] == "final" and r["trial"] == best} == {1, 2}
    # All of it is there: nothing is run again.
    assert compare(config, "--out", out, "--resume", "--methods", "grad_diff") == 0
    assert (out / "runs.jsonl").read_text() == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"loop": {"epochs": 3}}}, "was trained with loop.epochs=2.0, not 3.0"),
        ({"data": {**FILE["data"], "forget_authors": 1}}, "data.forget_authors=2, not 1"),
        ({"train": {"loop": {"epochs": 2}, "model": "nano"}}, "model='pocket', not 'nano'"),
    ],
)
def test_models_that_were_trained_otherwise_are_not_taken(change, message, whole, tmp_path, capsys):
    config = write(tmp_path / "contest.yaml", **change)
    error = refused(capsys, whole, "compare", config, "--out", whole / "out", "--resume")
    assert message in error and "original_0" in error


def test_models_may_be_moved(tmp_path):
    def contest(data_dir, model):
        path = write(
            tmp_path / "contest.yaml",
            data={"dataset": "tofu"},
            methods={"npo": FILE["methods"]["npo"]},
        )
        return read_contest(CompareConfig(str(path), OutputConfig("x"), data_dir, model))

    for training in trainings(contest("here", "there/checkpoint"), tmp_path, 0):
        open_folder(training.output, training)
    check_trained(contest("elsewhere", "moved/to/checkpoint"), tmp_path)
    with pytest.raises(InputError, match="trained with model='checkpoint', not 'another'"):
        check_trained(contest("here", "there/another"), tmp_path)


@pytest.mark.parametrize(
    ("methods", "data", "message"),
    [
        ({"rmu": {"search": {"layer": {"choices": [0, 9]}}}}, {}, "expected a layer from 0 to 2"),
        ({"matched": {"search": {"gamma": [0.1, 1.0]}}}, {"authors": 200}, "has no holdout set"),
    ],
)
def test_what_a_method_lacks_is_named_before_models_are_trained(
    methods, data, message, tmp_path, capsys
):
    data = {**FILE["data"], **data}
    rules = {**FILE["rules"], "trials": 4}
    config = write(tmp_path / "contest.yaml", methods=methods, data=data, rules=rules)
    assert message in refused(capsys, tmp_path, "compare", config, "--out", tmp_path / "out")


@pytest.mark.slow
def test_runs_are_spread_over_pairs_of_models(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    rules = {**FILE["rules"], "replicates": 2}
    config = write(tmp_path / "contest.yaml", rules=rules)
    assert compare(config, "--out", out, "--resume", "--methods", "grad_diff") == 0
    summary = results(out)["summary"]["methods"]["grad_diff"]
    mine = [r for r in runs(out) if r["method"] == "grad_diff" and r["stage"] == "final"]
    # Seed 2 was run on pair 0 and stays; seed 1 was too, and is run again on pair 1.
    assert [(r["seed"], r["replicate"]) for r in mine] == [(1, 0), (2, 0), (1, 1)]
    assert summary["per_seed"]["score"] == [mine[i]["figures"]["score"] for i in (2, 1)]
    references = results(out)["references"]
    assert [(r["method"], r["seed"]) for r in references] == [
        (name, pair) for pair in (0, 1) for name in ("original", "retrained")
    ]
    # Back to one pair: what was there before holds again.
    before = (out / "runs.jsonl").read_text()
    assert compare(whole / "contest.yaml", "--out", out, "--resume", "--methods", "grad_diff") == 0
    assert (out / "runs.jsonl").read_text() == before
    assert len(results(out)["references"]) == 2


def test_a_trial_that_diverges_is_recorded(tmp_path):
    methods = {
        "npo": {"search": {"learning_rate": {"choices": [1e-5, 1e30]}}},
        "grad_diff": {"search": {"learning_rate": {"choices": [1e30]}}},
    }
    rules = {**FILE["rules"], "trials": 2, "draw": "sobol", "finalists": 2}
    config = write(tmp_path / "contest.yaml", methods=methods, rules=rules)
    assert compare(config, "--out", tmp_path / "out") == 0
    npo, grad_diff = (results(tmp_path / "out")["summary"]["methods"][m] for m in methods)
    assert (npo["trials"], npo["diverged_trials"], npo["finals"]) == (2, 1, 2)
    assert npo["best"]["point"] == {"learning_rate": 1e-5}
    assert (grad_diff["trials"], grad_diff["diverged_trials"], grad_diff["finals"]) == (2, 2, 0)


@pytest.mark.slow
def test_processes_share_a_folder_and_its_models(whole, tmp_path):
    config, out = write(tmp_path / "contest.yaml"), tmp_path / "out"
    command = [sys.executable, "-m", "ofmu_jax", "compare", str(config), "--out", str(out)]
    first = subprocess.Popen(
        [*command, "--methods", "npo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (out / "models").exists() and first.poll() is None:
        time.sleep(0.01)
    # It begins while the first one trains the models, and waits for them.
    second = subprocess.run(
        [*command, "--resume", "--methods", "grad_diff"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "train full" in first.communicate()[1] and first.returncode == 0
    assert "train full" not in second.stderr and second.returncode == 0

    def identities(folder):
        names = ("stage", "method", "trial", "seed", "point", "figures")
        return sorted(str({k: r[k] for k in names}) for r in runs(folder) if r["trial"] < 3)

    assert identities(out) == identities(whole / "out")


@pytest.mark.slow
def test_a_comparison_that_is_killed_ends_as_one_that_was_not(whole, tmp_path):
    config, out = write(tmp_path / "contest.yaml"), tmp_path / "out"
    command = [sys.executable, "-m", "ofmu_jax", "compare", str(config), "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    deadline, path = time.monotonic() + 300, pathlib.Path(out) / "runs.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    with path.open("a") as file:
        file.write('{"stage": "search", "meth')
    assert compare(config, "--out", out, "--resume") == 0

    def identity(record):
        return {k: record[k] for k in ("stage", "method", "trial", "seed", "point", "figures")}

    expected = [r for r in runs(whole / "out") if r["trial"] < 3]
    key = str
    assert sorted(map(key, map(identity, runs(out)))) == sorted(map(key, map(identity, expected)))
