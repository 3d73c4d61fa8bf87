"""The same losses and diagnostics on one device, on meshes, and in several processes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ofmu_jax.data import DEFAULT_TEMPLATE, make_authors, train_tokenizer, write_tokenizer
from ofmu_jax.methods import get_method
from ofmu_jax.models import DecoderConfig, init_params, write_checkpoint
from ofmu_jax.models.huggingface import new_layout, read_companions
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import Model, load_model
from ofmu_jax.runs.unlearn import unlearn_model
from ofmu_jax.scale import MeshShape, make_mesh

ROOT = pathlib.Path(__file__).parents[2]
DATA = make_authors(0, 8, 2)
# The exact outer term takes third derivatives, and minutes to compile.
EXACT = {"hvp": "exact", "inner_steps": 2}
SECANT = {"hvp": "trajectory", "inner_steps": 2}
METRICS = ("forget_loss", "retain_loss", "forget_norm", "retain_norm", "cosine", "phi_norm")


@pytest.fixture(scope="module")
def model():
    """A random decoder that every mesh of eight devices divides."""
    texts = (text for item in DATA.full for text in (item.question, item.answer))
    tokenizer = train_tokenizer(texts, 384)
    config = DecoderConfig(384, 32, 64, 2, 4, 4, max_position_embeddings=128, remat="dots")
    return Model(config, init_params(config, jax.random.key(0)), tokenizer)


def metrics(folder):
    records = read_metrics(folder)
    return {name: np.array([r[name] for r in records], float) for name in METRICS}


def assert_same(found, expected):
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def run(model, folder, method, shape=None, microbatches=1, steps=20):
    unlearn_model(
        model,
        DATA,
        method,
        LoopConfig(steps=steps, batch_size=8),
        folder,
        template=DEFAULT_TEMPLATE,
        mesh=make_mesh(shape),
        microbatches=microbatches,
    )
    return metrics(folder)


@pytest.mark.slow
def test_a_first_order_method_on_a_mesh(model, tmp_path):
    method = get_method("grad_diff")(learning_rate=1e-3)
    expected = run(model, tmp_path / "one", method, steps=4)
    assert_same(run(model, tmp_path / "mesh", method, MeshShape(2, 2, 2), steps=4), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "cases"),
    [
        pytest.param(EXACT, [(MeshShape(2, 2, 2), 1)], id="exact", marks=pytest.mark.long),
        pytest.param(
            SECANT,
            [(MeshShape(8, 1, 1), 1), (MeshShape(1, 2, 4), 1), (MeshShape(1, 2, 1), 4)],
            id="secant",
            marks=pytest.mark.long,
        ),
        pytest.param(SECANT, [(MeshShape(2, 2, 2), 2)], id="secant-on-a-mesh-in-two"),
    ],
)
def test_ofmu_on_meshes_and_in_microbatches(model, tmp_path, numbers, cases):
    method = get_method("ofmu")(inner_learning_rate=1e-4, rho=1e-2, learning_rate=1e-3, **numbers)
    expected = run(model, tmp_path / "one", method)
    assert np.ptp(expected["forget_loss"]) > 0.05  # it goes somewhere
    for number, (shape, microbatches) in enumerate(cases):
        found = run(model, tmp_path / str(number), method, shape, microbatches)
        assert_same(found, expected)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    write_tokenizer(folder / "tokenizer", model.tokenizer)
    layout = new_layout(model.config, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    layout.companions.update(read_companions(folder / "tokenizer"))
    write_checkpoint(folder / "model", model.config, model.params, layout)
    return folder / "model"


ARGUMENTS = ["authors", "--authors", "8", "--forget-authors", "2", "--batch-size", "8"]


def environment():
    return os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def start(checkpoint, out, processes, *arguments, devices=1):
    launch = ["launch", "--processes", str(processes), "--devices", str(devices)]
    flags = ["--model", str(checkpoint), "--out", str(out), "--mesh.fsdp", "-1"]
    return subprocess.Popen(
        [sys.executable, "-m", "ofmu_jax", *launch, "unlearn", *ARGUMENTS, *flags, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process, seconds):
    """What it printed; it and its children are gone, whatever happens."""
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        pytest.param(2, 1, [], marks=pytest.mark.long),
        pytest.param(4, 1, [], marks=pytest.mark.long),
        (2, 2, ["--mesh.tensor", "2"]),
    ],
)
def test_ofmu_in_several_processes(model, checkpoint, tmp_path, processes, devices, mesh):
    method = ["--method", "ofmu", "--inner-steps", "2", "--hvp", "trajectory"]
    out = tmp_path / "several"
    running = start(checkpoint, out, processes, "--steps", "8", *method, *mesh, devices=devices)
    output = finished(running, 900)
    assert running.returncode == 0, output
    one = run(load_model(checkpoint), tmp_path / "one", get_method("ofmu")(**SECANT), steps=8)
    assert_same(metrics(out), one)
    pairs = (jax.tree.leaves(load_model(x).params) for x in (out, checkpoint))
    for found, before in zip(*pairs, strict=True):
        assert np.isfinite(found).all() and not np.array_equal(found, before)


@pytest.mark.slow
def test_a_lost_process_stops_the_others_and_a_resume_goes_on(checkpoint, tmp_path):
    out, flags = tmp_path / "run", ["--method", "npo", "--checkpoint-every", "5"]
    endless = ["--steps", "100000"]
    running = start(checkpoint, out, 2, *flags, *endless)
    deadline = time.monotonic() + 300
    while not list(out.glob("checkpoints/[0-9]*/_CHECKPOINT_METADATA")):
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()[0]
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output = finished(running, 90)
    assert running.returncode == 128 + signal.SIGKILL, output
    assert re.search(r"lost another process of this run|another task died", output), output

    config = json.loads((out / "config.json").read_text())
    config["config"]["loop"]["steps"] = steps = 5 + len(read_metrics(out))
    (out / "config.json").write_text(json.dumps(config))
    resumed = start(checkpoint, out, 1, *flags, "--steps", str(steps), "--resume")
    output = finished(resumed, 300)
    assert resumed.returncode == 0, output
    assert [r["step"] for r in read_metrics(out)] == list(range(steps))


@pytest.mark.slow
def test_processes_that_disagree_are_refused_before_anything_is_written(checkpoint, tmp_path):
    out = tmp_path / "out"
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "ofmu_jax", "unlearn", *ARGUMENTS, "--distributed"),
                *("--model", str(checkpoint), "--out", str(out), "--mesh.fsdp", "-1"),
                *("--learning-rate", f"1e-{number + 3}"),
            ],
            env=environment()
            | {
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:12771",
                "OFMU_NUM_PROCESSES": "2",
                "OFMU_PROCESS_ID": str(number),
                "JAX_NUM_CPU_DEVICES": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in running:
        error = process.communicate(timeout=200)[1]
        assert process.returncode == 2, error
        assert "disagree on the config: 1 of 2 differ from process 0" in error
    assert not out.exists()
