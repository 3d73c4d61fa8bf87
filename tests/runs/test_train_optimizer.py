"""What `ofmu train` makes of gradients."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax.runs.config import DataConfig, OutputConfig, TrainConfig
from ofmu_jax.runs.train import optimizer
from tests.command_line import refused

START = jnp.array([1.0, -2.0])


def config(**fields):
    return TrainConfig(DataConfig("authors"), OutputConfig("unused"), **fields)


def updates_of(tx, gradients):
    state, found = tx.init(START), []
    for gradient in gradients:
        update, state = tx.update(jnp.asarray(gradient), state, START)
        found.append(np.asarray(update))
    return np.array(found), state


def test_a_batch_that_is_not_finite_is_left_out_of_its_sum():
    gradients = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    bad = np.full(2, np.nan, np.float32)
    accumulated, state = updates_of(
        optimizer(config(accumulate=2, warmup=0.0), 2), [gradients[0], bad, bad, *gradients[1:]]
    )
    plain = optimizer(config(warmup=0.0), 2)
    means, _ = updates_of(plain, gradients.reshape(2, 2, 2).mean(axis=1))
    np.testing.assert_allclose(accumulated[[3, 5]], means, rtol=1e-6)
    assert np.abs(means).min() > 0 and not accumulated[[0, 1, 2, 4]].any()
    assert optax.tree.get(state, "total_notfinite") == 2
    assert optax.tree.get(state, "notfinite_count") == 0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 3])
def test_no_step_is_wasted_where_there_is_no_warm_up(schedule, steps):
    tx = optimizer(config(schedule=schedule, warmup=0.1), steps)
    updates, _ = updates_of(tx, np.ones((steps, 2)))
    assert (np.abs(updates) > 0).all()


def test_more_batches_to_accumulate_than_there_are_are_refused(capsys, tmp_path):
    arguments = ["train", "authors", "--authors", 4, "--forget-authors", 1, "--epochs", 1]
    arguments += ["--batch-size", 16, "--accumulate", 9, "--out", tmp_path / "out"]
    line = refused(capsys, tmp_path, *arguments)
    assert "accumulate is 9, and the run has 6 batches" in line
