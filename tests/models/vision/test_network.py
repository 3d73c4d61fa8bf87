import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models.vision import (
    Variables,
    VisionConfig,
    features,
    init_variables,
    logits,
    logits_and_moments,
    with_classes,
)
from tests.models.vision import reference
from tests.models.vision.tiny import CONFIGS, make_images, make_variables, quick_jit, shapes

SMALL = CONFIGS["small_cnn"]


def count(config):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(config).params))


def vit_count(width, patches, inputs, classes):
    block = (
        2 * 2 * width + 4 * (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width
    )
    ends = (inputs + 1) * width + width + (patches + 1) * width + 2 * width + (width + 1) * classes
    return 12 * block + ends


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
        ("vgg16_bn", 14_728_266),
        ("vit_tiny", vit_count(192, 64, 48, 10)),
        ("vit_small", vit_count(384, 64, 48, 10)),
        ("small_cnn", 27 * 16 + 32 + 144 * 32 + 64 + (2048 + 1) * 64 + 65 * 10),
    ],
)
def test_parameter_counts_for_cifar_10(name, expected):
    assert count(VisionConfig(name, (32, 32, 3), 10)) == expected


def test_the_small_cnn_is_small():
    assert count(VisionConfig("small_cnn", (28, 28, 1), 10)) < 200_000


def test_initial_values():
    config = VisionConfig("small_cnn", (16, 16, 3), 10, width=32)
    variables = init_variables(config, jax.random.key(0))
    flat, _ = jax.tree_util.tree_flatten_with_path(variables.params["backbone"])
    for path, leaf in flat:
        if path[-1].key == "kernel":
            deviation = math.sqrt(2 / math.prod(leaf.shape[:-1]))
            np.testing.assert_allclose(jnp.std(leaf), deviation, rtol=0.1)
        else:
            np.testing.assert_array_equal(leaf, float(path[-1].key == "scale"))
    for norm in ("conv1", "conv2"):
        statistics = variables.statistics["backbone"][norm]["norm"]
        np.testing.assert_array_equal(statistics["mean"], 0)
        np.testing.assert_array_equal(statistics["var"], 1)
    other = init_variables(config, jax.random.key(1))
    assert not jnp.any(variables.params["head"]["kernel"] == other.params["head"]["kernel"])


def test_small_cnn_agrees_with_numpy():
    variables, images = make_variables(SMALL), make_images(SMALL)
    expected, _ = reference.small_cnn(variables, images, frozen=True)
    values = quick_jit(logits, static_argnums=0)(SMALL, variables, images)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    expected, expected_moments = reference.small_cnn(variables, images, frozen=False)
    run = quick_jit(logits_and_moments, static_argnums=0)
    values, moments = run(SMALL, variables.params, images)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        moments,
        expected_moments,
    )


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "vgg16_bn", "vit_tiny"])
def test_the_head_reads_the_features(name):
    config = CONFIGS[name]
    variables, images = make_variables(config), make_images(config)

    @quick_jit
    def run(variables, images):
        return features(config, variables, images), logits(config, variables, images)

    read, values = run(variables, images)
    head = variables.params["head"]
    assert read.shape == (4, head["kernel"].shape[0])
    np.testing.assert_allclose(values, read @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-5)
    assert jnp.std(read, axis=0).max() > 1e-3


@pytest.mark.parametrize("name", ["small_cnn", "vit_tiny"])
def test_half_precision_keeps_statistics_and_logits_wide(name):
    config = dataclasses.replace(CONFIGS[name], dtype="bfloat16", param_dtype="bfloat16")
    variables = make_variables(config)
    images = make_images(CONFIGS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables.params)} == {jnp.dtype("bfloat16")}

    @quick_jit
    def run(variables):
        own, moments = logits_and_moments(config, variables.params, images)
        read = features(config, variables, images)
        return own, moments, read, logits(config, variables, images)

    own, moments, read, frozen = run(variables)
    assert own.dtype == frozen.dtype == jnp.float32
    wide = {leaf.dtype for leaf in jax.tree.leaves([moments, variables.statistics])}
    assert wide <= {jnp.dtype("float32")}
    assert read.dtype == jnp.bfloat16
    params = jax.tree.map(lambda x: x.astype(jnp.float32), variables.params)
    precise = Variables(params, variables.statistics)
    expected = quick_jit(logits, static_argnums=0)(CONFIGS[name], precise, images)
    np.testing.assert_allclose(frozen, expected, rtol=0.1, atol=0.1)


def test_more_classes_leave_the_first_logits_alone():
    variables, images = make_variables(SMALL), make_images(SMALL)
    wider, grown = with_classes(SMALL, variables, 200, jax.random.key(0))
    assert wider == dataclasses.replace(SMALL, num_classes=200)
    run = quick_jit(logits, static_argnums=0)
    values = run(wider, grown, images)
    assert values.shape == (4, 200)
    np.testing.assert_allclose(values[:, :3], run(SMALL, variables, images), rtol=1e-5)
    kernel, bias = grown.params["head"]["kernel"], grown.params["head"]["bias"]
    np.testing.assert_allclose(jnp.std(kernel[:, 3:]), kernel.shape[0] ** -0.5, rtol=0.1)
    np.testing.assert_array_equal(bias[3:], 0)
    assert grown.statistics is variables.statistics
    assert variables.params["head"]["bias"].shape == (3,)


def test_the_added_class_can_be_dropped():
    variables = make_variables(SMALL)
    wider, grown = with_classes(SMALL, variables, 4, jax.random.key(0))
    config, restored = with_classes(wider, grown, 3, jax.random.key(1))
    assert config == SMALL
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_many_heads_grow_at_once():
    models = [make_variables(SMALL, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    keys = jax.random.split(jax.random.key(0), 2)
    grown = jax.vmap(lambda v, key: with_classes(SMALL, v, 4, key)[1])(stacked, keys)
    kernel = grown.params["head"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :, :3], stacked.params["head"]["kernel"])
    assert not jnp.any(kernel[0, :, 3] == kernel[1, :, 3])


def test_no_classes_are_refused():
    with pytest.raises(InputError, match="num_classes is 0"):
        with_classes(SMALL, make_variables(SMALL), 0, jax.random.key(0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.zeros((4, 8, 9, 2)), r"shape \(4, 8, 9, 2\); .* = \(9, 8, 2\), .*small_cnn"),
        (jnp.zeros((9, 8, 2)), r"shape \(9, 8, 2\)"),
        (jnp.zeros((4, 9, 8, 2), jnp.uint8), "dtype uint8; expected normalised floats"),
    ],
)
def test_wrong_images_are_refused(images, message):
    variables = make_variables(SMALL)
    for run in (
        lambda x: logits(SMALL, variables, x),
        lambda x: features(SMALL, variables, x),
        lambda x: logits_and_moments(SMALL, variables.params, x),
    ):
        with pytest.raises(InputError, match=message):
            run(images)
