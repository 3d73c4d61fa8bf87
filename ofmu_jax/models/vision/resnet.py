"""Residual networks (He et al., 2016, arXiv:1512.03385) for small images.

The stem is one 3x3 convolution of stride one, without pooling, as on CIFAR; stages and widths are
those for ImageNet, and bottlenecks stride in their 3x3 convolution, as usual since the paper.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.layers import ConvNorm

_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
# Kernel sides within a block, and how many times wider than the stage its output is.
_BLOCKS = {"resnet18": ((3, 3), 1), "resnet50": ((1, 3, 1), 4)}


class ResNet(nn.Module):
    """Images to features."""

    config: VisionConfig

    @nn.compact
    def __call__(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, 8 * width), or four times as many for bottlenecks."""
        config = self.config
        x = nn.relu(ConvNorm(config, config.channels, name="stem")(images, frozen))
        for stage, depth in enumerate(_DEPTHS[config.name]):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                block = Block(
                    config, config.channels << stage, stride, name=f"stage{stage + 1}_{index}"
                )
                x = block(x, frozen)
        return jnp.mean(x, axis=(1, 2))


class Block(nn.Module):
    """Convolutions around which the input is passed on, by a projection where shapes differ."""

    config: VisionConfig
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, width), or four times as wide."""
        sides, widening = _BLOCKS[self.config.name]
        wide = widening * self.width
        y, last = x, len(sides) - 1
        for index, side in enumerate(sides):
            features = wide if index == last else self.width
            stride = self.stride if index == sides.index(3) else 1
            name = f"conv{index + 1}"
            y = ConvNorm(self.config, features, side, stride, name=name)(y, frozen)
            if index < last:
                y = nn.relu(y)
        if x.shape[-1] != wide:
            x = ConvNorm(self.config, wide, 1, self.stride, name="shortcut")(x, frozen)
        return nn.relu(x + y)
