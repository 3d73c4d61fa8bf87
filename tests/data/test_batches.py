from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.data import (
    Encoded,
    epoch_indices,
    grouped_indices,
    paired_indices,
    steps_per_epoch,
    take,
    training_batch,
)
from ofmu_jax.errors import InputError

# Changing it would change the results of runs that were published.
ORDER = [[9, 6, 0, 2], [1, 4, 7, 5], [3, 8, 4, 1]]


def _encoded(size, width=6, start=0):
    """Rows that tell their own index in every token, of varied lengths."""
    tokens = np.repeat(np.arange(start, start + size, dtype=np.int32)[:, None], width, axis=1)
    return _rows(tokens, np.arange(size) % 3 + 4)


def _rows(tokens, lengths, prompt=2):
    """Rows of which all but `prompt` tokens are scored."""
    positions, lengths = np.arange(tokens.shape[1]), np.asarray(lengths, np.int32)
    scored = (positions >= prompt) & (positions < lengths[:, None])
    return Encoded(tokens, scored, lengths, np.full(len(tokens), prompt, np.int32))


def paired_batches(forget, retain, step, **kwargs):
    """The rows of `paired_indices`."""
    rows = paired_indices(len(forget.tokens), len(retain.tokens), step, **kwargs)
    return take(forget, rows[0]), take(retain, rows[1])


def _sequence(seed, size, batch_size, steps):
    return np.concatenate([epoch_indices(seed, k, size, batch_size) for k in range(steps)])


@given(seed=st.integers(0, 2**64 - 1), size=st.integers(1, 40), batch_size=st.integers(1, 60))
def test_every_epoch_has_every_item_once(seed, size, batch_size):
    steps = -(-3 * size // batch_size)
    order = _sequence(seed, size, batch_size, steps)
    assert order.shape == (steps * batch_size,)
    for epoch in range(3):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(seed=st.integers(0, 100), size=st.integers(1, 30), batch_size=st.integers(1, 30))
def test_the_order_does_not_depend_on_the_batch_size(seed, size, batch_size):
    order = _sequence(seed, size, batch_size, 4)
    np.testing.assert_array_equal(order, epoch_indices(seed, 0, size, 4 * batch_size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_indices(seed, k, 30, 30)) for seed in range(4) for k in range(4)}
    assert len(orders) == 16
    assert tuple(range(30)) not in orders


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0), (4, -1)])
def test_no_batches(size, batch_size):
    with pytest.raises(InputError, match="expected at least"):
        epoch_indices(0, 0, size, batch_size)


@pytest.mark.parametrize(
    ("size", "batch_size", "steps"), [(40, 16, 3), (32, 16, 2), (1, 16, 1), (16, 1, 16)]
)
def test_steps_per_epoch(size, batch_size, steps):
    assert steps_per_epoch(size, batch_size) == steps


def test_take_keeps_rows_together():
    encoded = _encoded(5)
    batch = take(encoded, np.array([3, 0, 3]))
    assert batch.keys() == {"tokens", "scored"}
    assert batch["tokens"][:, 0].tolist() == [3, 0, 3]
    assert batch["tokens"].dtype == np.int32 and batch["scored"].dtype == bool
    np.testing.assert_array_equal(batch["scored"], encoded.scored[[3, 0, 3]])


@pytest.mark.parametrize(("longest", "width"), [(64, 64), (65, 128), (129, 150)])
def test_take_drops_padding_that_no_row_needs(longest, width):
    encoded = _rows(np.ones((3, 150), np.int32), [longest, 3, 150], prompt=1)
    batch = take(encoded, np.array([0, 1]))
    assert batch["tokens"].shape == batch["scored"].shape == (2, width)
    assert batch["scored"].sum(axis=1).tolist() == [longest - 1, 2]


def test_training_batch_follows_the_epochs():
    encoded = _encoded(7)
    for step in range(5):
        batch = training_batch(encoded, step, 3, seed=1)
        expected = take(encoded, epoch_indices(1, step, 7, 3))
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_the_order_is_that_of_published_runs():
    order = [epoch_indices(3, step, 10, 4).tolist() for step in range(3)]
    assert order == ORDER
    encoded = _encoded(10)
    for step, indices in enumerate(ORDER):
        assert training_batch(encoded, step, 4, seed=3)["tokens"][:, 0].tolist() == indices


@given(
    seed=st.integers(0, 2**64 - 1),
    size=st.integers(1, 200),
    batch_size=st.integers(1, 60),
    longest=st.integers(1, 50),
)
def test_every_grouped_epoch_has_every_item(seed, size, batch_size, longest):
    lengths = np.random.default_rng(0).integers(1, longest + 1, size)
    steps = steps_per_epoch(size, batch_size)
    for epoch in range(2):
        count = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            batch = grouped_indices(seed, step, lengths, batch_size)
            assert batch.shape == (batch_size,)
            count.update(batch.tolist())
        # Once, and what fills the last batch as evenly as can be.
        fewest = steps * batch_size // size
        assert set(count) == set(range(size)) and set(count.values()) <= {fewest, fewest + 1}


def test_grouped_batches_have_similar_lengths_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 1000, 800)
    batches = [lengths[grouped_indices(0, step, lengths, 8)] for step in range(100)]
    # Two pools of 400 items: a batch spans about a fiftieth of the lengths.
    assert np.mean([batch.max() - batch.min() for batch in batches]) < 30
    middles = [np.median(batch) for batch in batches]
    assert abs(np.corrcoef(middles, np.arange(100))[0, 1]) < 0.3


def test_lengths_are_sorted_within_pools_only():
    lengths = np.arange(800)
    batches = [grouped_indices(0, step, lengths, 8) for step in range(100)]
    # Sorted as a whole, each batch would be a run of eight.
    assert max(batch.max() - batch.min() for batch in batches) > 8


def test_grouped_epochs_and_seeds_have_orders_of_their_own():
    lengths = np.ones(30)
    steps = range(0, 12, 3)
    orders = {tuple(grouped_indices(seed, k, lengths, 10)) for seed in range(4) for k in steps}
    assert len(orders) == 16
    again = grouped_indices(2, 5, lengths, 10)
    np.testing.assert_array_equal(again, grouped_indices(2, 5, lengths, 10))


def test_grouped_training_batches_are_narrow():
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 300, 400)
    encoded = _rows(np.repeat(np.arange(400)[:, None], 320, axis=1), lengths)
    widths = {True: 0, False: 0}
    for step in range(50):
        for grouped in widths:
            batch = training_batch(encoded, step, 8, seed=1, group_by_length=grouped)
            widths[grouped] += batch["tokens"].shape[1]
        indices = grouped_indices(1, step, lengths, 8)
        assert batch["tokens"].shape[1] % 64 == 0
        batch = training_batch(encoded, step, 8, seed=1, group_by_length=True)
        assert batch["tokens"][:, 0].tolist() == indices.tolist()
        np.testing.assert_array_equal(batch["scored"].sum(axis=1), lengths[indices] - 2)
        assert batch["tokens"].shape[1] == -(-lengths[indices].max() // 32) * 32
    assert widths[True] < 0.65 * widths[False]
    assert widths[True] * 8 < 1.25 * lengths.sum()


@pytest.mark.parametrize(("size", "batch_size"), [(0, 4), (4, 0), (4, -1)])
def test_no_grouped_batches(size, batch_size):
    with pytest.raises(InputError, match="expected at least"):
        grouped_indices(0, 0, np.ones(size), batch_size)


def test_an_epoch_of_pairs_passes_once_over_the_forget_set():
    forget, retain = _encoded(8), _encoded(20, start=100)
    epochs = []
    for epoch in range(2):
        batches = [
            paired_batches(forget, retain, 4 * epoch + k, batch_size=2, seed=5) for k in range(4)
        ]
        epochs.append(np.concatenate([f["tokens"][:, 0] for f, _ in batches]))
        assert all(f["tokens"].shape == r["tokens"].shape == (2, 6) for f, r in batches)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(8))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_retain_items_serve_equally_often():
    forget, retain = _encoded(8), _encoded(20, start=100)
    count = Counter()
    for step in range(20):
        count.update(paired_batches(forget, retain, step, batch_size=4, seed=5)[1]["tokens"][:, 0])
    assert set(count) == set(range(100, 120)) and set(count.values()) == {4}


def test_sets_of_equal_size_are_paired_anew():
    forget, retain = _encoded(30), _encoded(30)
    pairs = set()
    for step in range(3):
        f, r = paired_batches(forget, retain, step, batch_size=30, seed=0)
        pairs.add(tuple(r["tokens"][np.argsort(f["tokens"][:, 0]), 0]))
    assert len(pairs) == 3 and tuple(range(30)) not in pairs


def test_pairs_are_a_function_of_seed_and_step():
    forget, retain = _encoded(8), _encoded(20)

    def rows(step, seed):
        batches = paired_batches(forget, retain, step, batch_size=4, seed=seed)
        return [batch["tokens"][:, 0].tolist() for batch in batches]

    assert rows(9, 0) == rows(9, 0)
    assert all(a != b for a, b in zip(rows(9, 0), rows(9, 1), strict=True))


@pytest.mark.parametrize("empty", [(0, 3), (3, 0)])
def test_pairs_need_both_sets(empty):
    with pytest.raises(InputError, match="0 items"):
        paired_batches(*map(_encoded, empty), 0, batch_size=2, seed=0)
