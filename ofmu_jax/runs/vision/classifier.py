"""An image classifier as methods of unlearning take it: a network with its pixels' statistics."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ofmu_jax.data.vision import augment
from ofmu_jax.models.vision import (
    Variables,
    VisionConfig,
    estimate_statistics,
    init_variables,
    logits,
    logits_and_moments,
    update_statistics,
    with_classes,
)


@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    """The functions that `methods.vision.Classifier` names, of scaled images, 0 to 1.

    Attributes:
      config: the shape of the network.
      mean: per channel, of the pixels.
      std: per channel, of the pixels.
      pad: black pixels around an image from which crops are taken.
      flip: whether views are mirrored at random.
    """

    config: VisionConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool

    @property
    def num_classes(self) -> int:
        """How many logits it gives."""
        return self.config.num_classes

    def __call__(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits (B, classes) of uint8 images, as they are evaluated."""
        return self.logits(variables, self.scaled(images))

    def scaled(self, images: jax.Array) -> jax.Array:
        """uint8 images as float32, 0 to 1."""
        return images.astype(jnp.float32) / 255

    def augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """A random crop of each image, mirrored or not."""
        return augment(key, images, fill=0.0, pad=self.pad, flip=self.flip)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits (B, classes) with the running statistics."""
        return logits(self.config, Variables(*variables), self._normalised(images))

    def batch_logits(self, params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        """The same with the batch's own statistics, and these."""
        return logits_and_moments(self.config, params, self._normalised(images))

    def follow(self, statistics: Any, moments: Any) -> Any:
        """Running statistics after one more batch."""
        return update_statistics(statistics, moments)

    def estimate(self, params: Any, images: jax.Array) -> Any:
        """Statistics over images (N, B, H, W, C), N batches."""
        return estimate_statistics(self.config, params, self._normalised(images))

    def variables(self, params: Any, statistics: Any) -> Variables:
        """The two in one."""
        return Variables(params, statistics)

    def initial(self, key: jax.Array) -> Variables:
        """Variables before any training."""
        return init_variables(self.config, key)

    def with_classes(
        self, variables: Variables, count: int, key: jax.Array
    ) -> tuple["ImageClassifier", Variables]:
        """The same classifier with more classes or only the first of them."""
        config, changed = with_classes(self.config, variables, count, key)
        return dataclasses.replace(self, config=config), changed

    def _normalised(self, images: jax.Array) -> jax.Array:
        return (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
