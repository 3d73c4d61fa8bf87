"""Meshes on the command line."""

import pathlib
import re

import numpy as np
import pytest
import yaml

from ofmu_jax.cli import main
from ofmu_jax.runs.folder import read_metrics
from tests.command_line import refused
from tests.runs.checkpoints import DATA, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "hf")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mesh.fsdp", "16"], "needs 16 devices; there are 8"),
        (["--mesh.fsdp", "0"], "mesh axis fsdp is 0; expected a number of devices >= 1, or -1"),
        (["--mesh.data", "-1", "--mesh.fsdp", "-1"], "only one axis can take"),
        (["--mesh.fsdp", "4", "--batch-size", "6"], "has 6 rows; expected a multiple of 4"),
        (
            ["--mesh.fsdp", "4", "--batch-size", "8", "--microbatches", "4"],
            "a batch, or microbatch, has 2 rows; expected a multiple of 4",
        ),
        (
            ["--mesh.tensor", "4"],
            "expected a divisor of 2, the size of axis 'kv_heads' of parameter",
        ),
        (["--microbatches", "3"], "microbatches is 3; expected a divisor of batch_size = 16"),
    ],
)
def test_what_cannot_be_split_is_refused(capsys, checkpoint, tmp_path, flags, message):
    base = ["unlearn", *DATA, "--model", checkpoint, "--out", tmp_path / "out", "--method", "npo"]
    assert message in refused(capsys, tmp_path, *base, *flags)


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(checkpoint, tmp_path):
    flags = [
        "--method",
        "grad_diff",
        "--steps",
        "6",
        "--batch-size",
        "8",
        "--checkpoint-every",
        "3",
    ]
    base = ["unlearn", *DATA, "--model", str(checkpoint), *flags, "--log-every", "1", "--out"]
    assert main([*base, str(tmp_path / "whole")]) == 0
    out = tmp_path / "parts"
    assert main([*base, str(out), "--mesh.fsdp", "4", "--mesh.tensor", "2"]) == 0
    # As if it had been stopped after its checkpoint.
    (out / "model" / "tensors.json").unlink()
    assert main([*base, str(out), "--mesh.data", "2", "--resume"]) == 0
    expected, found = (read_metrics(tmp_path / name) for name in ("whole", "parts"))
    assert [r["step"] for r in found] == list(range(6))
    for name in ("forget_loss", "retain_loss"):
        values = ([r[name] for r in records] for records in (found, expected))
        np.testing.assert_allclose(*values, rtol=1e-5)


def test_launch_explains_itself(capsys, tmp_path):
    assert "launch --processes is 0" in refused(capsys, tmp_path, "launch", "--processes", "0")
    assert "expected `ofmu launch" in refused(capsys, tmp_path, "launch", "compare")
    message = refused(capsys, tmp_path, "compare", "x.yaml", "--distributed")
    assert "compare runs in one process" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"OFMU_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"OFMU_NUM_PROCESSES": "two"}, "OFMU_NUM_PROCESSES is 'two'; expected a number"),
        ({"OFMU_PROCESS_ID": "2"}, "OFMU_PROCESS_ID is 2; expected less than"),
    ],
)
def test_a_wrong_environment_is_named(capsys, tmp_path, monkeypatch, given, message):
    values = {
        "JAX_COORDINATOR_ADDRESS": "localhost:1",
        "OFMU_NUM_PROCESSES": "2",
        "OFMU_PROCESS_ID": "0",
    }
    if "not set" in message:
        values = {}
    for name, value in (values | given).items():
        monkeypatch.setenv(name, value)
    arguments = ["train", "authors", "--out", tmp_path / "out", "--distributed"]
    assert message in refused(capsys, tmp_path, *arguments)


def launch_commands():
    folder = pathlib.Path(__file__).parents[2] / "experiments" / "launch"
    for path in sorted(folder.iterdir()):
        if path.suffix == ".yaml":
            spec = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
            container = spec["template"]["spec"]["containers"][0]
            command = [*container["command"], *container["args"]]
        else:
            text = path.read_text().replace("\\\n", "")
            command = re.search(r"ofmu unlearn [^\n]*", text)[0].replace('"', "").split()
        yield pytest.param(command, id=path.name)


@pytest.mark.parametrize("command", list(launch_commands()))
def test_launch_files_give_flags_that_exist(capsys, tmp_path, command):
    assert command[0] == "ofmu" and "--distributed" in command
    arguments = [re.sub(r"\$\{?STORAGE(:\?)?\}?|/storage", str(tmp_path), x) for x in command[1:]]
    arguments.remove("--distributed")
    # All that is missing are the files.
    assert f"{tmp_path}/tofu" in refused(capsys, tmp_path, *arguments, "--mesh.fsdp", "1")
