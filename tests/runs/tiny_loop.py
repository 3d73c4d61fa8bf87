"""A loop of a tiny state that takes no time and shows every wrong bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.loop import run_loop

STEPS = 12


def begin(size=3):
    return {"w": jnp.arange(size, dtype=jnp.float32), "count": jnp.zeros((), jnp.int32)}


@functools.partial(jax.jit, donate_argnums=0)
def step(state, target):
    """A chaotic map, so that one wrong bit shows; the loss is what the batch says."""
    w = 3.9 * jax.nn.sigmoid(state["w"]) * (1 - jax.nn.sigmoid(state["w"])) + jnp.cos(state["w"])
    metrics = {"loss": target[0], "notfinite_count": jnp.zeros((), jnp.int32)}
    return {"w": w, "count": state["count"] + 1}, metrics


def batch(k):
    return (np.full(2, 10.0 - k, np.float32),)


def run(folder, loop=None, state=None, batch=batch, steps=STEPS, **options):
    loop = loop or LoopConfig(log_every=4, checkpoint_every=3)
    state = begin() if state is None else state
    return run_loop(step, state, batch, steps, loop, folder, label="test", **options).state


def interrupted_at(k, batch=batch):
    """Batches whose making is broken off at step k, as Ctrl-C in a library would."""

    def broken(at):
        if at == k:
            raise KeyboardInterrupt
        return batch(at)

    return broken


def begun(folder, until=10, **options):
    """A run that was broken off before step `until`."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, batch=interrupted_at(until), **options)
    return folder


def kept(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def undisturbed(folder):
    """The state and the metrics of a run that nothing befell."""
    state = jax.device_get(run(folder))
    return state, read_metrics(folder)


def goes_on_as(whole, folder, **options):
    state = run(folder, resume=True, **options)
    same(state, whole[0])
    assert read_metrics(folder) == whole[1]
