"""What happens to images between the files and the model."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ofmu_jax.errors import InputError


def normalise(images: ArrayLike, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Brings pixels to mean 0 and standard deviation 1 over a set.

    Args:
      images: (..., C) uint8.
      mean: (C,), of the pixels in [0, 1].
      std: (C,), of the pixels in [0, 1].

    Returns:
      (..., C) float32, `(images / 255 - mean) / std`.

    Raises:
      InputError: the images are not uint8.

    >>> normalise(jnp.array([[0, 255]], jnp.uint8), 0.5, 0.25).tolist()
    [[-2.0, 2.0]]
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise InputError(f"images to normalise are {images.dtype}; expected uint8")
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def augment(
    key: jax.Array, images: jax.Array, *, fill: ArrayLike, pad: int = 4, flip: bool = True
) -> jax.Array:
    """Crops each image at random out of a padded one, and mirrors half of them.

    As is customary for CIFAR (He et al., 2016, arXiv:1512.03385, section 4.2): all positions of the
    crop are equally likely.

    Args:
      key: a key, for one batch.
      images: (B, H, W, C) float.
      fill: (C,), the value of the padding. Customarily images are padded before they are
        normalised, with black; for images that are normalised already it is `VisionData.black`.
      pad: pixels of padding on each side, at least 0.
      flip: whether to mirror an image, left to right, with probability 1/2.

    Returns:
      (B, H, W, C), of the same dtype.

    Raises:
      InputError: the images have another number of axes, or `pad` is negative.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images to augment are {images.dtype} {images.shape}; expected float (B, H, W, C)"
        )
    if pad < 0:
        raise InputError(f"pad is {pad}; expected at least 0")
    batch, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    canvas = (batch, height + 2 * pad, width + 2 * pad, channels)
    padded = jnp.broadcast_to(jnp.asarray(fill, images.dtype), canvas)
    padded = padded.at[:, pad : pad + height, pad : pad + width].set(images)
    corners = jax.random.randint(crop_key, (batch, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    cropped = jax.vmap(crop)(padded, corners)
    if not flip:
        return cropped
    mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
