"""Whole comparisons through the command line: equal budgets, resumed, recorded, reported."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml

from ofmu_jax.cli import main
from ofmu_jax.contest.compare import report
from ofmu_jax.contest.config import CompareConfig, read_contest
from ofmu_jax.contest.ledger import Ledger
from ofmu_jax.runs.config import OutputConfig

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


def test_what_is_selected_on_is_not_what_is_reported(whole):
    (reference,) = [r for r in results(whole / "out")["references"] if r["method"] == "original"]
    # Two authors of ten items: one to select on, one to report. With n = 10 the attainable D are
    # tenths, where all twenty items would allow twentieths.
    assert round(reference["figures"]["ks_distance"] * 10, 6).is_integer()


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


def test_a_trial_that_diverges_is_recorded(tmp_path):
    methods = {
        "npo": {"search": {"learning_rate": {"choices": [1e-5, 1e30]}}},
        "grad_diff": {"search": {"learning_rate": {"choices": [1e30]}}},
    }
    rules = {**FILE["rules"], "trials": 2, "draw": "sobol"}
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
