"""Narrow models on small images, with nothing left at a neutral value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.models.vision import VisionConfig, init_variables

CONFIGS = {
    "small_cnn": VisionConfig("small_cnn", (9, 8, 2), num_classes=3, width=2),
    "resnet18": VisionConfig("resnet18", (9, 8, 2), num_classes=3, width=2),
    "resnet50": VisionConfig("resnet50", (9, 8, 2), num_classes=3, width=2),
    "vgg16_bn": VisionConfig("vgg16_bn", (33, 32, 2), num_classes=3, width=2),
    "vit_tiny": VisionConfig("vit_tiny", (12, 8, 2), num_classes=3, width=6),
}

# Deep networks compile in half the time; and fused operations round in another way than single
# ones, which a gradient that compares floats for equality would not survive.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(config):
    return jax.eval_shape(functools.partial(init_variables, config), jax.random.key(0))


def make_variables(config, seed=0):
    """Random variables; scales, biases and means too, lest a missing one go unseen."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "var":
            values = rng.uniform(0.5, 2.0, leaf.shape)
        elif name == "scale":
            values = rng.uniform(0.5, 1.5, leaf.shape)
        elif name == "kernel":
            # He's deviation for a convolution or a linear layer, near enough for the others.
            values = rng.normal(scale=(2 / np.prod(leaf.shape[:-1])) ** 0.5, size=leaf.shape)
        else:
            values = rng.normal(scale=0.3, size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(config))


def make_images(config, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, *config.image_shape)), config.dtype)
