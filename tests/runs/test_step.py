"""One step of every method in microbatches against the same step at once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import Encoded, paired_indices
from ofmu_jax.methods import METHODS, get_method
from ofmu_jax.runs.step import Feed, unlearning_step
from ofmu_jax.runs.trainable import TrainState

VOCAB, ROWS, WIDTH = 5, 6, 7


class Bigram:
    """A model whose logits, and hidden states, are the rows of a table."""

    def __call__(self, params, tokens):
        return params[tokens]

    def hidden_states(self, params, tokens, layer):
        return params[tokens]


def rows(rng):
    """Rows that score between one and six tokens."""
    scored = np.arange(WIDTH)[None] >= rng.integers(1, WIDTH, size=(ROWS, 1))
    return {"tokens": rng.integers(0, VOCAB, size=(ROWS, WIDTH)), "scored": scored}


def task():
    """A table, a forget batch, a retain batch, and the original table."""
    rng = np.random.default_rng(0)
    original = jnp.asarray(rng.normal(size=(VOCAB, VOCAB)))
    forget = rows(rng) | {"alternative": rows(rng), "unseen_quantiles": np.linspace(0, 3, 129)}
    for batch in (forget, forget["alternative"]):
        batch["reference_log_prob"] = rng.normal(size=ROWS)
    # Off the original, whose own distribution has gradient zero.
    return original + 0.1 * rng.normal(size=original.shape), forget, rows(rng), original


def stepped(method, microbatches):
    table, forget, retain, original = task()
    tx = method.transformation(10)
    step = unlearning_step(method, Bigram(), tx, lambda p, frozen: p, microbatches=microbatches)
    state = TrainState(table, tx.init(table))
    return jax.jit(step)(state, (), original, forget, retain)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_microbatches_change_no_step(x64, name):
    numbers = {"layer": 0} if name == "rmu" else {}
    numbers |= {"hvp": "exact", "inner_steps": 2} if name == "ofmu" else {}
    kinds = ["nll"] if name in ("rmu", "grad_ascent") else ["nll", "kl"]
    for retain_loss in kinds:
        given = (
            numbers if name in ("rmu", "grad_ascent") else numbers | {"retain_loss": retain_loss}
        )
        step = functools.partial(stepped, get_method(name)(learning_rate=1e-2, **given))
        (whole, metrics), (parts, metrics_of_parts) = step(1), step(3)
        chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-9)
        chex.assert_trees_all_close(metrics_of_parts, metrics, rtol=1e-5)


@given(st.integers(0, 50), st.sampled_from([1, 2, 4]))
def test_processes_share_a_batch_and_read_no_other_rows(step, processes):
    rng = np.random.default_rng(step)
    size, count = 20, 8

    def encoded():
        lengths = rng.integers(2, 65, size=size).astype(np.int32)
        tokens = rng.integers(0, 9, size=(size, 64), dtype=np.int32)
        return Encoded(tokens, rng.random((size, 64)) < 0.5, lengths, np.ones(size, np.int32))

    def only(rows, index):
        """What is not its own may be anything, but for its length."""
        return rows._replace(tokens=np.where(mine(index)[:, None], rows.tokens, -1))

    def mine(index):
        return np.isin(np.arange(size), index)

    forget, retain, reference = encoded(), encoded(), rng.normal(size=size)
    whole = Feed(forget, retain, None, {"": reference}).batches(step, count, seed=3)
    found = jax.tree.map(np.empty_like, whole)
    indices = paired_indices(size, size, step, batch_size=count, seed=3)
    for own in np.split(rng.permutation(count), processes):
        feed = Feed(
            only(forget, indices[0][own]),
            only(retain, indices[1][own]),
            None,
            {"": np.where(mine(indices[0][own]), reference, np.nan)},
        )
        part = feed.batches(step, count, 3, own)
        jax.tree.map(lambda x, y, own=own: x.__setitem__(own, y), found, part)
    chex.assert_trees_all_equal(found, whole)
