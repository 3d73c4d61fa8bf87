"""A run that is killed and resumed ends as one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ofmu_jax.cli import main
from ofmu_jax.runs.models import load_model

DATA = ["authors", "--authors", "4", "--forget-authors", "1"]
TRAIN = ["train", *DATA, "--epochs", "4", "--checkpoint-every", "3", "--log-every", "2"]


def same_model(a, b):
    jax.tree.map(np.testing.assert_array_equal, load_model(a).params, load_model(b).params)


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kill_after(step, arguments, run):
    """Starts a run in a process of its own and kills it once it has noted `step`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ofmu_jax", *arguments, "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    deadline = time.monotonic() + 120
    path = pathlib.Path(run) / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") > step:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    process.wait()
    return process.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "original"
    assert main([*TRAIN, "--out", str(run)]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 5])
def test_training_resumes_bit_for_bit_after_kill(step, whole, tmp_path):
    run = tmp_path / "original"
    # Many small steps follow, so that the kill comes before the end.
    code = kill_after(step, TRAIN, run)
    assert code == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (run / "model" / "config.json").exists()
    assert main([*TRAIN, "--out", str(run), "--resume"]) == 0
    same_model(run, whole)
    assert metrics(run) == metrics(whole)


@pytest.mark.parametrize("method", [pytest.param("ofmu", marks=pytest.mark.slow), "npo"])
def test_unlearning_resumes_bit_for_bit(method, whole, tmp_path, monkeypatch):
    unlearn = ["unlearn", *DATA, "--model", str(whole), "--method", method]
    unlearn += ["--epochs", "6", "--batch-size", "5", "--checkpoint-every", "4"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*unlearn, "--out", str(one)]) == 0
    # Stopped as by Ctrl-C, in the middle of step 6.
    from ofmu_jax.runs import step as module

    real = module.take
    calls = {"n": 0}

    def interrupted(encoded, rows, **options):
        calls["n"] += len(rows) == 5
        if calls["n"] > 2 * 7:
            raise KeyboardInterrupt
        return real(encoded, rows, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "take", interrupted)
        assert main([*unlearn, "--out", str(two)]) == 130
    assert len(metrics(two)) == 6
    assert main([*unlearn, "--out", str(two), "--resume"]) == 0
    same_model(one, two)
    assert metrics(one) == metrics(two)
    # Once finished, --resume has nothing to do, and --overwrite begins anew.
    before = (two / "metrics.jsonl").stat().st_mtime_ns
    assert main([*unlearn, "--out", str(two), "--resume"]) == 0
    assert (two / "metrics.jsonl").stat().st_mtime_ns == before
    assert main([*unlearn, "--out", str(two), "--overwrite"]) == 0
    same_model(one, two)


def test_a_run_is_a_function_of_its_config(whole, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert main(["train", "--config", str(whole / "config.json"), "--out", str(again)]) == 0
    same_model(again, whole)
    assert main([*TRAIN, "--seed", "1", "--out", str(other)]) == 0
    with pytest.raises(AssertionError):
        same_model(other, whole)
