"""Rounding, pruning, noise and interpolation, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ofmu_jax.errors import InputError
from ofmu_jax.robustness import (
    interpolated,
    keep_largest,
    noisy,
    pruned,
    round_matrix,
    rounded,
)
from tests.robustness.tiny import CONFIG, by_name, params

NORMS = ("layernorm", "norm.weight")


def matrices(tree):
    return {name: leaf for name, leaf in by_name(tree).items() if not any(n in name for n in NORMS)}


def norms(tree):
    return {name: leaf for name, leaf in by_name(tree).items() if any(n in name for n in NORMS)}


# Of one shape, so that programs are compiled once.
weights = arrays.arrays(np.float32, (2, 6, 3), elements=st.floats(-4, 4, width=32))


@given(weights, st.sampled_from((2, 4, 8)), st.sampled_from((None, 1, 4)))
def test_rounding_is_off_by_half_a_step_at_most_and_idempotent(values, bits, group):
    once = np.asarray(round_matrix(jnp.asarray(values), bits, group))
    size = values.shape[1] if group is None else group
    for start in range(0, values.shape[1], size):
        part = slice(start, start + size)
        step = np.abs(values[:, part]).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        assert np.all(np.abs(once[:, part] - values[:, part]) <= step / 2 * (1 + 1e-5) + 1e-30)
    twice = np.asarray(round_matrix(jnp.asarray(once), bits, group))
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-30)


def test_rounding_leaves_few_values_per_output_channel():
    rng = np.random.default_rng(0)
    result = np.asarray(round_matrix(jnp.asarray(rng.normal(size=(2, 64, 5)), jnp.float32), 4))
    for layer in result:
        for channel in layer.T:
            assert 8 <= len(np.unique(channel)) <= 15
    # A channel's step is its own.
    assert len({np.abs(channel).max() for layer in result for channel in layer.T}) == 10


def test_a_decoder_is_rounded_along_its_inputs():
    before, after = by_name(params()), by_name(rounded(CONFIG, params(), 4))
    steps = 7
    # The inputs of each: which axes are gone from the greatest magnitude of a channel.
    for name, axes in {
        "layers.self_attn.q_proj": 1,
        "layers.self_attn.o_proj": (1, 2),
        "layers.mlp.down_proj": 1,
        "layers.mlp.up_proj": 1,
        "embed_tokens": 1,
    }.items():
        step = np.abs(before[name]).max(axis=axes, keepdims=True) / steps
        np.testing.assert_allclose(after[name], np.round(before[name] / step) * step, atol=1e-6)
    for name, leaf in norms(params()).items():
        np.testing.assert_array_equal(after[name], leaf)


@pytest.mark.parametrize("arguments", [(1,), (17,), (4, 0)])
def test_rounding_refuses_what_is_out_of_range(arguments):
    with pytest.raises(InputError, match="expected"):
        rounded(CONFIG, params(), *arguments)


@given(weights, st.sampled_from((0, 1, 7, 35, 36)))
def test_pruning_keeps_exactly_the_largest(values, count):
    kept = np.asarray(keep_largest(jnp.asarray(values), count))
    where = kept != 0
    assert where.sum() <= count  # a kept zero is still zero
    np.testing.assert_array_equal(kept[where], values[where])
    largest = np.sort(np.abs(values).ravel())[::-1][:count]
    np.testing.assert_array_equal(np.sort(np.abs(kept).ravel())[::-1][:count], largest)


def uneven():
    """Parameters whose layers differ in size."""

    def scaled(leaf):
        return leaf * 10.0 ** -jnp.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1))

    tree = params()
    return {**tree, "layers": jax.tree.map(scaled, tree["layers"])}


def of_each_layer(name, leaf):
    return leaf if name.startswith("layers.") else leaf[None]


def test_pruning_a_decoder_takes_the_same_part_of_every_matrix():
    after = pruned(CONFIG, uneven(), 0.3)
    for name, leaf in matrices(after).items():
        for matrix in of_each_layer(name, leaf):
            assert (matrix == 0).sum() == int(0.3 * matrix.size), name
    for name, leaf in norms(uneven()).items():
        np.testing.assert_array_equal(by_name(after)[name], leaf)
    with pytest.raises(InputError, match="fraction is 1"):
        pruned(CONFIG, params(), 1)


def test_noise_has_the_size_that_is_asked_for():
    before, after = uneven(), noisy(CONFIG, uneven(), 0.5, jax.random.key(1))
    for name, leaf in matrices(before).items():
        noise = of_each_layer(name, by_name(after)[name] - leaf)
        for difference, matrix in zip(noise, of_each_layer(name, leaf), strict=True):
            relative = np.sqrt(np.mean(difference**2) / np.mean(matrix**2))
            # The root mean square of n normal numbers is off by about 1 / sqrt(2 n).
            assert abs(relative / 0.5 - 1) < 4 / np.sqrt(2 * matrix.size), name
            assert np.all(difference != 0)
    # No two matrices have the same noise.
    up, gate = (
        (by_name(after)[n] - by_name(before)[n]).ravel()
        for n in ("layers.mlp.up_proj", "layers.mlp.gate_proj")
    )
    assert abs(np.corrcoef(up, gate)[0, 1]) < 0.3
    with pytest.raises(InputError, match="noise scale is 0"):
        noisy(CONFIG, params(), 0, jax.random.key(1))


def test_interpolation_ends_at_its_endpoints():
    start, end = params(0), params(1)
    for t, expected in ((0.0, start), (1.0, end)):
        for name, leaf in by_name(interpolated(start, end, t)).items():
            np.testing.assert_array_equal(leaf, by_name(expected)[name])
    middle = by_name(interpolated(start, end, 0.25))
    for name, leaf in middle.items():
        expected = 0.75 * by_name(start)[name] + 0.25 * by_name(end)[name]
        np.testing.assert_allclose(leaf, expected, atol=1e-6)
