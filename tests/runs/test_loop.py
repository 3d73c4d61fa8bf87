"""The loop: what it notes, and that it stops when nothing finite comes out."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.runs.config import LoopConfig
from ofmu_jax.runs.folder import read_metrics
from ofmu_jax.runs.loop import run_loop


def setup(poison):
    """SGD on the mean of a batch; batches k in `poison` are NaN."""
    tx = bilevel.skip_nonfinite(optax.sgd(0.5))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, opt_state = state
        loss, gradient = jax.value_and_grad(lambda p: jnp.mean((p - batch) ** 2))(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        metrics = {"loss": loss, "notfinite_count": opt_state.notfinite_count}
        return (params + updates, opt_state), metrics

    def batch(k):
        return (np.full(3, np.nan if k in poison else 1.0, np.float32),)

    params = jnp.zeros(())
    return step, (params, tx.init(params)), batch


def test_every_step_is_noted(tmp_path):
    step, state, batch = setup(poison=())
    loop = LoopConfig(log_every=4, checkpoint_every=3)
    result = run_loop(step, state, batch, 10, loop, tmp_path, label="test")
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == list(range(10))
    assert records[0]["loss"] == 1.0 and records[-1]["loss"] < 1e-3
    assert result.compile_seconds > 0 and result.seconds > 0


def test_skipped_steps_are_survived_up_to_the_limit(tmp_path):
    step, state, batch = setup(poison=(2, 3, 5))
    loop = LoopConfig(log_every=1, max_nonfinite=3)
    result = run_loop(step, state, batch, 10, loop, tmp_path, label="test")
    assert np.isfinite(result.state[0]) and result.state[1].total_notfinite == 3
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[2]["loss"] is None  # strict JSON has no NaN


def test_too_many_in_a_row_stop_the_run_with_a_clear_error(tmp_path):
    step, state, batch = setup(poison=range(4, 100))
    loop = LoopConfig(log_every=1, max_nonfinite=3)
    with pytest.raises(
        InputError, match="test: the update was not finite 3 times.*step 6.*loss=nan"
    ):
        run_loop(step, state, batch, 50, loop, tmp_path, label="test")
    assert len(read_metrics(tmp_path)) == 7


def test_a_cut_off_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1')
    assert read_metrics(tmp_path) == [{"step": 0}]
