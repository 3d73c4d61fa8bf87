"""What the convolutional networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.convolution import convolve

# He et al., 2015, arXiv:1502.01852, eq. 10: for layers behind which a ReLU drops half.
HE_NORMAL = nn.initializers.he_normal()


def batch_norm(config: VisionConfig, frozen: bool, axis: int = -1) -> nn.BatchNorm:
    """A batch norm (Ioffe and Szegedy, 2015, arXiv:1502.03167) named "norm".

    Args:
      config: for the numerics.
      frozen: whether to use the statistics given, not the batch's own.
      axis: the channels.
    """
    return nn.BatchNorm(
        use_running_average=frozen,
        axis=axis,
        # With no memory of the past, what Flax calls the new running average is the batch's own.
        momentum=0.0,
        epsilon=1e-5,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        # The fast one cancels, and clips at zero, which halves second derivatives there.
        use_fast_variance=False,
        name="norm",
    )


class ConvNorm(nn.Module):
    """A convolution, padded to keep the size, and its batch norm.

    Attributes:
      config: the classifier's.
      features: channels out.
      size: side of the kernel, odd.
      stride: in pixels.
      bias: whether the convolution has one, which the norm makes redundant.
    """

    config: VisionConfig
    features: int
    size: int = 3
    stride: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        x = Conv(self.config, self.features, self.size, self.stride, self.bias, name="conv")(x)
        return batch_norm(self.config, frozen)(x)


class Conv(nn.Module):
    """A convolution, padded to keep the size; attributes as in `ConvNorm`."""

    config: VisionConfig
    features: int
    size: int
    stride: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        dtype, param_dtype = self.config.dtype, jnp.dtype(self.config.param_dtype)
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", HE_NORMAL, shape, param_dtype)
        x = convolve(x.astype(dtype), kernel.astype(dtype), self.stride)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype)
            x = x + bias.astype(dtype)
        return x


def max_pool(x: jax.Array) -> jax.Array:
    """The maxima of 2x2 windows over the two middle axes; an odd last row or column is dropped.

    By comparisons. The gradient of a windowed maximum takes a CPU several times as long as that
    of the convolutions around it; the gradient of `max` looks for the element that equals the
    result, and divides by zero where the compiler computed the two with different rounding.

    >>> max_pool(jnp.arange(15.0).reshape(1, 3, 5, 1)).ravel().tolist()
    [6.0, 8.0]
    """
    first, height, width, last = x.shape
    rows, columns = height // 2, width // 2
    x = x[:, : 2 * rows, : 2 * columns].reshape(first, rows, 2, columns, 2, last)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b > a, b, a)
