"""A run that is killed, preempted or interrupted leaves what it can be gone on with."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.models import load_model
from ofmu_jax.runs.stopping import Stopped, stop_requests
from tests.runs.tiny_loop import STEPS, batch, goes_on_as, kept, run, same, undisturbed

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def interruptible():
    """Under a runner that ignores SIGINT, these tests and what they start do not."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"))


def sending(number, k, times=1):
    """Batches of a run to which a signal is sent before step k."""

    def send(at):
        if at == k:
            for _ in range(times):
                signal.raise_signal(number)
        return batch(at)

    return send


@pytest.mark.parametrize("at", [0, 4, 5, 11])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_run_after_the_step_that_runs(number, status, at, whole, tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, batch=sending(number, at))
    assert stopped.value.status == status
    expected = f"stopped by {number.name} at step {at + 1}; go on with --resume"
    assert str(stopped.value) == expected
    assert kept(tmp_path)[-1] == at + 1
    assert read_metrics(tmp_path) == whole[1][: at + 1]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    goes_on_as(whole, tmp_path)


def test_a_second_interrupt_does_not_wait_and_a_second_sigterm_changes_nothing(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run(tmp_path / "int", batch=sending(signal.SIGINT, 4, times=2))
    assert not isinstance(interrupt.value, Stopped)
    goes_on_as(whole, tmp_path / "int")
    with pytest.raises(Stopped, match="step 5"):
        run(tmp_path / "term", batch=sending(signal.SIGTERM, 4, times=2))
    goes_on_as(whole, tmp_path / "term")


def test_signals_are_left_alone_where_they_are_not_the_loop_s(whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def watched(k):
        seen.append(signal.getsignal(signal.SIGTERM))
        return batch(k)

    thread = threading.Thread(target=run, args=(tmp_path / "thread",), kwargs={"batch": watched})
    thread.start()
    thread.join()
    assert seen == [before] * STEPS
    # What is ignored, as under nohup, stays so.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        same(run(tmp_path / "ignored", batch=sending(signal.SIGINT, 4)), whole[0])
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_signal_that_nobody_asked_for_is_not_lost():
    with pytest.raises(KeyboardInterrupt), stop_requests():
        signal.raise_signal(signal.SIGINT)


# Processes of their own.


@pytest.fixture
def start():
    """Starts a Python process; what still runs at the end of the test is killed."""
    started = []

    def begin(arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


SLOWLY = """
import functools, pathlib, sys
import jax, jax.numpy as jnp
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.loop import run_loop

@functools.partial(jax.jit, donate_argnums=0)
def step(state):
    metrics = {"loss": state[0, 0], "notfinite_count": jnp.zeros((), jnp.int32)}
    return jnp.cos(3 * state) + state / 2, metrics

def loop(folder, steps=40, **options):
    state = jax.random.normal(jax.random.key(0), (1000, 1000))
    config = LoopConfig(log_every=7, checkpoint_every=10)
    return run_loop(step, state, lambda k: (), steps, config, folder, label="test", **options)

if __name__ == "__main__":
    loop(pathlib.Path(sys.argv[1]))
"""


def test_a_kill_while_a_checkpoint_is_written(start, tmp_path):
    """The write is under way: its folder has its temporary name when the process is gone."""
    script, folder = tmp_path / "slowly.py", tmp_path / "run"
    script.write_text(SLOWLY)
    folder.mkdir()
    process = start([script, folder])
    written = folder / "checkpoints"
    while process.poll() is None:
        if any(written.glob("30.*tmp*/*")):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.001)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {err}"
    assert any(written.glob("30.*tmp*")) and kept(folder)[-1] == 20
    names: dict = {"__name__": "slowly"}
    exec(compile(SLOWLY, "slowly", "exec"), names)
    resumed = names["loop"](folder, resume=True).state
    (tmp_path / "whole").mkdir()
    same(resumed, names["loop"](tmp_path / "whole").state)
    assert read_metrics(folder) == read_metrics(tmp_path / "whole")
    assert kept(folder) == [20, 30]
    assert not any(written.glob("*tmp*"))


def wait_for_metrics(folder, count, *processes):
    path = folder / "metrics.jsonl"
    while all(p.poll() is None for p in processes):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)


TRAIN = ["-m", "ofmu_jax", "train", "authors", "--authors", "4", "--forget-authors", "1"]
TRAIN += ["--vocab-size", "400", "--epochs", "12", "--log-every", "1", "--checkpoint-every", "10"]


@pytest.mark.slow
def test_a_signal_leaves_a_run_of_the_command_line_to_go_on_with(start, tmp_path):
    programs = str(tmp_path / "programs")  # compiled once

    def train(folder, *more):
        return start([*TRAIN, "--out", folder, *more], JAX_COMPILATION_CACHE_DIR=programs)

    whole = tmp_path / "whole"
    _, err = (process := train(whole)).communicate()
    assert process.returncode == 0, err
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        folder = tmp_path / number.name
        process = train(folder)
        wait_for_metrics(folder, 3, process)
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == status, err
        k = kept(folder)[-1]
        assert k == len(read_metrics(folder)) < len(read_metrics(whole))
        told = f"ofmu: stopped by {number.name} at step {k}; go on with --resume"
        assert err.splitlines()[-1] == told
        assert "Traceback" not in err
        _, err = (process := train(folder, "--resume")).communicate()
        assert process.returncode == 0, err
        same(load_model(folder).params, load_model(whole).params)
        assert read_metrics(folder) == read_metrics(whole)


TOGETHER = """
import functools, pathlib, sys
import jax
rank, port, folder, steps = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", 2, rank)
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.loop import run_loop
from ofmu_jax.runs.stopping import Stopped

mesh = jax.make_mesh((2,), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

@functools.partial(jax.jit, donate_argnums=0, out_shardings=(split, whole))
def step(state):
    metrics = {"loss": state.sum(), "notfinite_count": jnp.zeros((), jnp.int32)}
    return 4 * state * (1 - state), metrics

first = np.linspace(0.1, 0.9, 64 * 512, dtype=np.float32).reshape(64, 512)
state = jax.make_array_from_callback(first.shape, split, lambda i: first[i])
loop = LoopConfig(log_every=3, checkpoint_every=10)
try:
    end = run_loop(step, state, lambda k: (), int(steps), loop, folder, label="t", resume=True)
except Stopped as stopped:
    print(stopped)
    sys.exit(stopped.status)
(part,) = end.state.addressable_shards
np.save(folder / f"{rank}.npy", part.data)
"""


def both(start, script, folder, steps):
    """Starts the two processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start([script, rank, port, folder, steps]) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_two_processes_stop_at_one_step_and_go_on_together(number, status, start, tmp_path):
    script, folder = tmp_path / "together.py", tmp_path / "run"
    script.write_text(TOGETHER)
    folder.mkdir()
    processes = both(start, script, folder, 10**6)
    wait_for_metrics(folder, 12, *processes)
    processes[1].send_signal(number)  # the other one learns of it
    said = [p.communicate() for p in processes]
    assert [p.returncode for p in processes] == [143, status], said
    k = kept(folder)[-1]
    assert said[0][0].splitlines()[-1] == f"stopped by SIGTERM at step {k}; go on with --resume"
    assert (
        said[1][0].splitlines()[-1] == f"stopped by {number.name} at step {k}; go on with --resume"
    )
    assert k == len(read_metrics(folder))
    # What only one of them reads is damaged.
    for path in (folder / "checkpoints" / str(k) / "state" / "ocdbt.process_1" / "d").iterdir():
        path.unlink()
    processes = both(start, script, folder, k + 5)
    said = [p.communicate() for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert f"it is now damaged_{k}" in said[0][1]
    assert "cannot be read" not in said[1][1]
    assert [r["step"] for r in read_metrics(folder)] == list(range(k + 5))
    expected = np.linspace(0.1, 0.9, 64 * 512, dtype=np.float32).reshape(64, 512)
    for _ in range(k + 5):
        expected = 4 * expected * (1 - expected)
    np.testing.assert_array_equal(
        np.concatenate([np.load(folder / f"{rank}.npy") for rank in (0, 1)]), expected
    )
