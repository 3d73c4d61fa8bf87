"""Convolutions of (B, H, W, C) images, as each kind of machine does them best.

On accelerators that is XLA's own. On a CPU the gradients of those lose one to two orders of
magnitude within `lax.scan` (jax-ml/jax issue 12868), and matrix products keep their speed.
"""

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution padded to keep the size; how it is computed is decided when it is lowered.

    Args:
      x: (B, H, W, C).
      kernel: (S, S, C, F), S odd.
      stride: in pixels.

    Returns:
      (B, H / stride, W / stride, F), rounded up, in the type of `x`.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: by_products(x, kernel, stride),
        default=lambda x, kernel: by_xla(x, kernel, stride),
    )


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

    Rows of a window are laid side by side before the product, and its columns are added after it:
    less is copied than if the whole window were laid out.
    """
    side, _, channels, features = kernel.shape
    margin = side // 2
    batch, height, width = x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride)

    def shifted(x: jax.Array, axis: int, start: int, count: int) -> jax.Array:
        stop = start + stride * (count - 1) + 1
        return jax.lax.slice_in_dim(x, start, stop, stride, axis)

    padded = jnp.pad(x, ((0, 0), (margin, margin), (0, 0), (0, 0)))
    rows = jnp.concatenate([shifted(padded, 1, i, height) for i in range(side)], axis=-1)
    weight = kernel.transpose(0, 2, 1, 3).reshape(side * channels, side * features)
    product = rows.reshape(-1, side * channels) @ weight
    columns = product.reshape(batch, height, -1, side * features)
    columns = jnp.pad(columns, ((0, 0), (0, 0), (margin, margin), (0, 0)))
    terms = [
        shifted(columns[..., j * features : (j + 1) * features], 2, j, width) for j in range(side)
    ]
    return sum(terms[1:], terms[0])
