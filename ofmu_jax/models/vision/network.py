"""An image classifier as pure functions of its parameters and batch statistics."""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.resnet import ResNet
from ofmu_jax.models.vision.small_cnn import SmallCNN
from ofmu_jax.models.vision.vgg import VGG
from ofmu_jax.models.vision.vit import VisionTransformer

Params: TypeAlias = dict[str, Any]
Statistics: TypeAlias = dict[str, Any]

_BACKBONES: dict[str, type[nn.Module]] = {
    "small_cnn": SmallCNN,
    "resnet18": ResNet,
    "resnet50": ResNet,
    "vgg16_bn": VGG,
    "vit_tiny": VisionTransformer,
    "vit_small": VisionTransformer,
}
_HEAD_INIT = nn.initializers.lecun_normal()


class Variables(NamedTuple):
    """What a trained classifier consists of.

    Attributes:
      params: nested dict; its "head" is the last layer, a kernel (F, classes) and a bias.
      statistics: nested dict with the "mean" and "var" that every batch norm uses when it is not
        given a batch to take them from; {} for a model without batch norm.
    """

    params: Params
    statistics: Statistics


class Classifier(nn.Module):
    """Images to logits; `logits` and `logits_and_moments` are the plain functions."""

    config: VisionConfig

    def setup(self) -> None:
        """A backbone and a head."""
        self.backbone = _BACKBONES[self.config.name](self.config)
        self.head = nn.Dense(
            self.config.num_classes,
            dtype=self.config.wide_dtype,
            param_dtype=self.config.param_dtype,
            kernel_init=_HEAD_INIT,
        )

    def features(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, F)."""
        return self.backbone(images.astype(self.config.dtype), frozen)

    def __call__(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, classes)."""
        return self.head(self.features(images, frozen))


@functools.partial(jax.jit, static_argnums=0)
def init_variables(config: VisionConfig, key: jax.Array) -> Variables:
    """Draws parameters: He-normal convolutions, zero biases, neutral norms.

    Args:
      config: the model.
      key: a `jax.random` key.

    Returns:
      Parameters in `param_dtype`; statistics of mean 0 and variance 1, in float32 at least.

    >>> config = VisionConfig("small_cnn", (28, 28, 1), num_classes=10)
    >>> init_variables(config, jax.random.key(0)).params["head"]["kernel"].shape
    (64, 10)
    """
    images = jnp.zeros((1, *config.image_shape), config.dtype)
    variables = Classifier(config).init(key, images, frozen=True)
    statistics = jax.tree.map(
        lambda x: x.astype(config.wide_dtype), variables.get("batch_stats", {})
    )
    return Variables(variables["params"], statistics)


def logits(config: VisionConfig, variables: Variables, images: jax.Array) -> jax.Array:
    """Logits by given statistics, so that no example depends on another.

    For evaluation, and for training with frozen statistics.

    Args:
      config: the model.
      variables: as from `init_variables`, with statistics from training or estimation.
      images: (B, H, W, C) floats, normalised as in training.

    Returns:
      (B, classes) in float32 (float64 where `dtype` is).

    Raises:
      InputError: the images are not of the model's shape, or not floats.
    """
    _check_images(config, images)
    return cast(jax.Array, Classifier(config).apply(_collections(variables), images, frozen=True))


def features(config: VisionConfig, variables: Variables, images: jax.Array) -> jax.Array:
    """What the head reads, by given statistics.

    Args:
      config: the model.
      variables: as in `logits`.
      images: (B, H, W, C) floats, normalised as in training.

    Returns:
      (B, F) in `dtype`.

    Raises:
      InputError: the images are not of the model's shape, or not floats.
    """
    _check_images(config, images)
    values = Classifier(config).apply(
        _collections(variables), images, frozen=True, method=Classifier.features
    )
    return cast(jax.Array, values)


def logits_and_moments(
    config: VisionConfig, params: Params, images: jax.Array
) -> tuple[jax.Array, Statistics]:
    """Logits by the batch's own statistics, and these.

    Args:
      config: the model.
      params: as from `init_variables`.
      images: (B, H, W, C) floats, normalised.

    Returns:
      (B, classes) logits, typed as in `logits`, and a tree like `Variables.statistics` with the
      mean and the biased variance of each norm's inputs over examples and pixels.

    Raises:
      InputError: the images are not of the model's shape, or not floats.
    """
    _check_images(config, images)
    values, collections = Classifier(config).apply(
        {"params": params}, images, frozen=False, mutable=["batch_stats"]
    )
    return cast(jax.Array, values), dict(collections).get("batch_stats", {})


def with_classes(
    config: VisionConfig, variables: Variables, num_classes: int, key: jax.Array
) -> tuple[VisionConfig, Variables]:
    """The same network with more or fewer classes.

    Args:
      config: the model.
      variables: as in `logits`.
      num_classes: how many logits there shall be. The first ones stay what they are; further ones
        get fresh weights, and no bias.
      key: a `jax.random` key for these.

    Returns:
      The new configuration and variables.

    Raises:
      InputError: `num_classes` is less than 1.

    >>> config = VisionConfig("small_cnn", (28, 28, 1), num_classes=10)
    >>> variables = init_variables(config, jax.random.key(0))
    >>> config, variables = with_classes(config, variables, 11, jax.random.key(1))
    >>> config.num_classes, variables.params["head"]["kernel"].shape
    (11, (64, 11))
    """
    wanted = dataclasses.replace(config, num_classes=num_classes)
    kernel, bias = variables.params["head"]["kernel"], variables.params["head"]["bias"]
    inputs, present = kernel.shape
    new = max(num_classes - present, 0)
    # An initialiser cannot draw nothing.
    # The initialiser divides by the number of columns.
    fresh = _HEAD_INIT(key, (inputs, max(new, 1)), kernel.dtype)[:, :new]
    kernel = jnp.concatenate([kernel[:, :num_classes], fresh], axis=1)
    bias = jnp.concatenate([bias[:num_classes], jnp.zeros(new, bias.dtype)])
    params = variables.params | {"head": {"kernel": kernel, "bias": bias}}
    return wanted, variables._replace(params=params)


def _collections(variables: Variables) -> dict[str, Any]:
    return {"params": variables.params, "batch_stats": variables.statistics}


def _check_images(config: VisionConfig, images: jax.Array) -> None:
    if images.ndim != 4 or images.shape[1:] != config.image_shape:
        raise InputError(
            f"images have shape {images.shape}; expected (B, H, W, C) with (H, W, C) = "
            f"{config.image_shape}, the image_shape of {config.name}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images have dtype {images.dtype}; expected normalised floats")
