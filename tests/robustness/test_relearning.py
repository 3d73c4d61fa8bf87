"""Relearning on a part of the items."""

import functools

import jax
import numpy as np
import optax
import pytest

from ofmu_jax.data import Encoded, epoch_indices
from ofmu_jax.errors import InputError
from ofmu_jax.losses.language import cross_entropy
from ofmu_jax.models import forward
from ofmu_jax.robustness import relearn, split_items
from tests.robustness.tiny import CONFIG, by_name, params


def rows(count=6, width=16):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG.vocab_size, (count, width)).astype(np.int32)
    lengths = np.full(count, width, np.int32)
    scored = np.broadcast_to(np.arange(width) >= 4, (count, width))
    return Encoded(tokens, scored, lengths, np.full(count, 4, np.int32))


@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.99])
def test_every_item_is_either_relearnt_or_held_out(part):
    relearnt, held_out = split_items(20, part, seed=1)
    assert sorted([*relearnt, *held_out]) == list(range(20))
    assert len(relearnt) == min(max(round(20 * part), 1), 19)
    assert split_items(20, part, seed=1)[0].tolist() == relearnt.tolist()


def test_another_seed_draws_others():
    draws = {tuple(split_items(20, 0.5, seed)[0].tolist()) for seed in range(5)}
    assert len(draws) == 5
    for part, size in ((0.0, 4), (1.0, 4), (0.5, 1)):
        with pytest.raises(InputError, match="expected"):
            split_items(size, part, 0)


@pytest.mark.slow
def test_steps_are_those_of_adam_on_the_rows():
    encoded, before = rows(), params()
    optimiser = optax.adam(0.01)
    state, expected, found = optimiser.init(before), before, {}
    apply_fn = functools.partial(forward, CONFIG)
    gradient = jax.jit(jax.grad(functools.partial(cross_entropy, apply_fn)))
    for k in range(3):
        chosen = epoch_indices(0, k, 6, 4)
        batch = {"tokens": encoded.tokens[chosen], "scored": encoded.scored[chosen]}

        updates, state = optimiser.update(gradient(expected, batch), state, expected)
        expected = optax.apply_updates(expected, updates)
        found[k + 1] = by_name(expected)
    marks = dict(relearn(CONFIG, before, encoded, (1, 3), learning_rate=0.01, batch_size=4, seed=0))
    assert list(marks) == [1, 3]
    for mark, tree in marks.items():
        for name, leaf in by_name(tree).items():
            np.testing.assert_allclose(leaf, found[mark][name], atol=2e-4)
    # The model that is attacked is left as it was.
    for name, leaf in by_name(params()).items():
        np.testing.assert_array_equal(by_name(before)[name], leaf)
