"""Convolutions of (B, H, W, C) images, as each kind of machine does them best.

On accelerators that is XLA's own. On a CPU the gradients of those lose one to two orders of
magnitude within `lax.scan` (jax-ml/jax issue 12868), and matrix products keep their speed.
"""

import functools
import operator
from typing import cast

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution padded to keep the size; how it is computed is decided when it is lowered.

    Args:
      x: (B, H, W, C).
      kernel: (S, S, C, F) of the same type, S odd.
      stride: in pixels.

    Returns:
      (B, H / stride, W / stride, F), rounded up, in the type of `x`.

    >>> x, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
    >>> convolve(x, kernel)[0, :, :, 0].astype(int).tolist()
    [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    >>> convolve(x, kernel, stride=2)[0, :, :, 0].astype(int).tolist()
    [[4, 4], [4, 4]]
    """
    chosen = jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(by_products, stride=stride),
        default=functools.partial(by_xla, stride=stride),
    )
    return cast(jax.Array, chosen)


def by_xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolve` by XLA's convolution."""
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def by_products(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolve` by one matrix product.

    At stride 1 the rows of a window are laid side by side before the product, and its columns are
    added after it: a third of the window is copied, for S = 3. At other strides that would
    multiply pixels which no sum takes, and the whole window is laid out.
    """
    side = kernel.shape[0]
    rows = _neighbours(x, 1, side, stride)
    if stride > 1:
        pixels = [pixel for row in rows for pixel in _neighbours(row, 2, side, stride)]
        return _product(pixels, kernel)
    columns = jnp.split(_product(rows, kernel.transpose(0, 2, 1, 3)), side, axis=-1)
    shifted = [_neighbours(column, 2, side, 1)[j] for j, column in enumerate(columns)]
    return functools.reduce(operator.add, shifted)


def _neighbours(x: jax.Array, axis: int, side: int, stride: int) -> list[jax.Array]:
    """For each of `side` offsets along an axis, what lies there from every stride-th place; zero
    beyond the edge."""
    margin = [(side // 2, side // 2) if i == axis else (0, 0) for i in range(x.ndim)]
    padded, length = jnp.pad(x, margin), x.shape[axis]
    return [
        jax.lax.slice_in_dim(padded, start, start + length, stride, axis) for start in range(side)
    ]


def _product(images: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """The channels of all (B, H, W, C) images times a kernel that has as many weights for each
    channel of the result."""
    image = jnp.concatenate(images, axis=-1)
    *places, channels = image.shape
    # As matrices: with more axes, XLA rearranges what the gradient of the kernel multiplies.
    product = image.reshape(-1, channels) @ kernel.reshape(channels, -1)
    return product.reshape(*places, -1)
