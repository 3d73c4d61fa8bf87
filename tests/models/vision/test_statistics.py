import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax.errors import InputError
from ofmu_jax.models.vision import (
    Variables,
    combine_moments,
    estimate_statistics,
    logits,
    logits_and_moments,
    update_statistics,
)
from tests.models.vision.tiny import CONFIGS, make_images, make_variables, quick_jit

SMALL = CONFIGS["small_cnn"]
# Jitted, since single operations take far longer to compile than these networks.
estimate = quick_jit(estimate_statistics, static_argnums=0)
own_logits = quick_jit(logits_and_moments, static_argnums=0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make_batches(config, batches=3, batch=5):
    """Batches that differ in mean and spread, lest the variance of means go unseen."""
    rng = np.random.default_rng(4)
    shape = (batches, 1, 1, 1, 1)
    scale, shift = rng.uniform(0.5, 2, shape), rng.normal(size=shape)
    images = rng.normal(size=(batches, batch, *config.image_shape)) * scale + shift
    return jnp.asarray(images, config.dtype)


def test_the_running_average_decays():
    old = {"norm": {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([3.0, 4.0])}}
    new = {"norm": {"mean": jnp.array([0.0, 1.0]), "var": jnp.array([1.0, 0.0])}}
    average = old
    for _ in range(3):
        average = update_statistics(average, new, momentum=0.8)
    past = 0.8**3
    close(average["norm"]["mean"], [past, 2 * past + 1 - past])
    close(average["norm"]["var"], [3 * past + 1 - past, 4 * past])
    close(update_statistics(old, new)["norm"]["mean"], [0.9, 1.9])


def test_moments_fit_the_statistics():
    for name in ("small_cnn", "vit_tiny"):
        config = CONFIGS[name]
        variables = make_variables(config)
        _, moments = own_logits(config, variables.params, make_images(config))
        updated = update_statistics(variables.statistics, moments)
        types = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
        assert types(updated) == types(moments) == types(variables.statistics)
    assert moments == {}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0.1, 10))
def test_weighted_moments_are_those_of_all_values(sizes, unit):
    rng = np.random.default_rng(sum(sizes))
    parts = [rng.normal(rng.normal(), rng.uniform(0.1, 3), (size, 2)) for size in sizes]
    moments = {
        "norm": {
            "mean": jnp.stack([part.mean(axis=0) for part in parts]),
            "var": jnp.stack([part.var(axis=0) for part in parts]),
        }
    }
    combined = combine_moments(moments, unit * jnp.array(sizes, jnp.float32))["norm"]
    everything = np.concatenate(parts)
    close(combined["mean"], everything.mean(axis=0))
    close(combined["var"], everything.var(axis=0))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_estimates_combine_what_each_batch_normalises_by(name):
    config = CONFIGS[name]
    params, batches = make_variables(config).params, make_batches(config)
    per_batch = [own_logits(config, params, images)[1] for images in batches]
    flat, _ = jax.tree_util.tree_flatten_with_path(estimate(config, params, batches))
    for path, leaf in flat:
        norms = per_batch
        for step in path[:-1]:
            norms = [tree[step.key] for tree in norms]
        means = np.stack([norm["mean"] for norm in norms]).astype(np.float64)
        variances = np.stack([norm["var"] for norm in norms])
        expected = means.mean(0)
        if path[-1].key == "var":
            expected = variances.mean(0) + means.var(0)
        close(leaf, expected)


def test_first_estimates_are_those_of_all_images():
    params, batches = make_variables(SMALL).params, make_batches(SMALL)
    first = estimate(SMALL, params, batches)["backbone"]["conv1"]["norm"]
    everything = batches.reshape(-1, *SMALL.image_shape)
    _, moments = own_logits(SMALL, params, everything)
    jax.tree.map(close, first, moments["backbone"]["conv1"]["norm"])


def test_estimates_from_one_batch_reproduce_its_logits():
    params, batches = make_variables(SMALL).params, make_batches(SMALL, batches=1)
    variables = Variables(params, estimate(SMALL, params, batches))
    expected, _ = own_logits(SMALL, params, batches[0])
    close(quick_jit(logits, static_argnums=0)(SMALL, variables, batches[0]), expected)


def test_no_norms_no_statistics():
    config = CONFIGS["vit_tiny"]
    assert estimate(config, make_variables(config).params, make_batches(config)) == {}


@pytest.mark.parametrize("shape", [(0, 5, 9, 8, 2), (5, 9, 8, 2)])
def test_no_batches_are_refused(shape):
    with pytest.raises(InputError, match=r"batches have shape .*; expected \(N, B, H, W, C\)"):
        estimate_statistics(SMALL, make_variables(SMALL).params, jnp.zeros(shape))
