"""A convolutional network that trains on a CPU: two convolutions, one hidden layer.

Convolutions are matrix products on (C, H, W, B), batch last. On a CPU, XLA's own convolutions
become grouped ones under `vmap`, and their gradients lose one to two orders of magnitude within
`lax.scan` (jax-ml/jax issue 12868); matrix products keep their speed in both. With the batch
last, shifted copies, pooling and the sums of batch norm read contiguous memory.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.layers import HE_NORMAL, batch_norm, max_pool


class SmallCNN(nn.Module):
    """Images to features; 0.1 million parameters with the head, at 28x28 pixels."""

    config: VisionConfig

    @nn.compact
    def __call__(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, 4 * width)."""
        config = self.config
        x = images.transpose(3, 1, 2, 0)
        for index, features in enumerate((config.channels, 2 * config.channels)):
            x = Layer(config, features, name=f"conv{index + 1}")(x, frozen)
        x = x.reshape(-1, x.shape[-1]).T
        hidden = nn.Dense(
            4 * config.channels,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            kernel_init=HE_NORMAL,
            name="hidden",
        )
        return nn.relu(hidden(x))


class Layer(nn.Module):
    """Convolution, batch norm, 2x2 max pooling, ReLU."""

    config: VisionConfig
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, frozen: bool) -> jax.Array:
        """Maps (C, H, W, B) to (features, H / 2, W / 2, B)."""
        x = Conv(self.config, self.features, name="conv")(x)
        # A ReLU commutes with a maximum, and behind it has a quarter of the work.
        return nn.relu(max_pool(batch_norm(self.config, frozen, axis=0)(x)))


class Conv(nn.Module):
    """A 3x3 convolution, padded to keep the size, without bias."""

    config: VisionConfig
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (C, H, W, B) to (features, H, W, B)."""
        channels, height, width, batch = x.shape
        shape = (3, 3, channels, self.features)
        kernel = self.param("kernel", HE_NORMAL, shape, jnp.dtype(self.config.param_dtype))
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        columns = jnp.concatenate(shifted).reshape(9 * channels, -1)
        weight = kernel.astype(self.config.dtype).reshape(9 * channels, -1)
        return (weight.T @ columns).reshape(-1, height, width, batch)
