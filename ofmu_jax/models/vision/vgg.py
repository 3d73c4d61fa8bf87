"""VGG-16 (Simonyan and Zisserman, 2015, arXiv:1409.1556) with batch norm, for small images.

The 13 convolutions of the paper; the last map is averaged, and one linear layer follows in place
of three.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.models.vision.config import VisionConfig
from ofmu_jax.models.vision.layers import ConvNorm, max_pool

# Convolutions before each pooling, and their width in base channels.
_STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGG(nn.Module):
    """Images to features."""

    config: VisionConfig

    @nn.compact
    def __call__(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, 8 * width)."""
        x = images
        for stage, (depth, widening) in enumerate(_STAGES):
            features = widening * self.config.channels
            for index in range(depth):
                name = f"stage{stage + 1}_{index}"
                x = nn.relu(ConvNorm(self.config, features, bias=True, name=name)(x, frozen))
            x = max_pool(x)
        return jnp.mean(x, axis=(1, 2))
