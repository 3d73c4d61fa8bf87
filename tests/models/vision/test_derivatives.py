"""Who depends on whom, second derivatives, and many models at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.models.vision import Variables, logits, logits_and_moments
from tests.models.vision.tiny import CONFIGS, make_images, make_variables, quick_jit


def reach(function, images):
    """(B, B), how much the logits of one example (row) move with the pixels of another."""

    @quick_jit
    def run(images):
        values, pull = jax.vjp(function, images)
        weights = jnp.asarray(np.random.default_rng(2).normal(size=values.shape), values.dtype)
        one = jnp.eye(len(images), dtype=values.dtype)[:, :, None] * weights
        return jnp.abs(jax.vmap(lambda c: pull(c)[0])(one)).sum(axis=(2, 3, 4))

    return np.asarray(run(images))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "vit_tiny"])
def test_examples_meet_in_batch_statistics_alone(name):
    config = CONFIGS[name]
    variables, images = make_variables(config), make_images(config, batch=3)
    others = ~np.eye(3, dtype=bool)
    frozen = reach(functools.partial(logits, config, variables), images)
    assert np.all(frozen[others] == 0)
    assert np.all(np.diag(frozen) > 0)
    own = reach(lambda x: logits_and_moments(config, variables.params, x)[0], images)
    assert np.all((own[others] > 0) == (name != "vit_tiny"))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("small_cnn", True),
        ("small_cnn", False),
        ("vit_tiny", True),
        pytest.param("resnet18", True, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", True, marks=pytest.mark.slow),
    ],
)
def test_hessian_vector_products_agree_with_differences(name, own, x64):
    config = dataclasses.replace(CONFIGS[name], dtype="float64", param_dtype="float64")
    variables, images = make_variables(config), make_images(config)
    rng = np.random.default_rng(3)
    params = variables.params
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
    labels = jnp.arange(4) % config.num_classes

    def loss(params):
        if own:
            values, _ = logits_and_moments(config, params, images)
        else:
            values = logits(config, Variables(params, variables.statistics), images)
        assert values.dtype == jnp.float64
        return -jnp.mean(jax.nn.log_softmax(values)[jnp.arange(4), labels])

    run = quick_jit(lambda p: jax.jvp(jax.grad(loss), (p,), (direction,)))
    step = 1e-6
    product = run(params)[1]
    ahead, _ = run(jax.tree.map(lambda p, v: p + step * v, params, direction))
    behind, _ = run(jax.tree.map(lambda p, v: p - step * v, params, direction))
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    expected, product = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (expected, product)
    )
    assert np.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "vit_tiny"])
def test_mapping_over_models_is_a_loop(name):
    config = CONFIGS[name]
    models = [make_variables(config, seed) for seed in (0, 1)]
    images = make_images(config)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)

    def run(variables):
        values, moments = logits_and_moments(config, variables.params, images)
        return values, moments, logits(config, variables, images)

    one = quick_jit(run)
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, models))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        quick_jit(jax.vmap(run))(stacked),
        expected,
    )
