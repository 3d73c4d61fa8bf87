"""Vision transformers (Dosovitskiy et al., 2021, arXiv:2010.11929) for small images.

Norms before attention and MLP, learned positions, a class token that the head reads; the tiny and
small widths of Touvron et al., 2021, arXiv:2012.12877, table 1; patches of 4x4 pixels. Layers run
under `nn.scan`, so every parameter under "blocks" has a leading layer axis.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.models.vision.config import VisionConfig

_DEPTH = 12
_MLP_WIDENING = 4


class VisionTransformer(nn.Module):
    """Images to features."""

    config: VisionConfig

    @nn.compact
    def __call__(self, images: jax.Array, frozen: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, width); there are no statistics to be frozen."""
        config = self.config
        width, types = config.channels, _types(config)
        patch = (config.patch, config.patch)
        x = nn.Conv(width, patch, patch, padding=0, **types, name="patches")(images)
        x = x.reshape(x.shape[0], -1, width)

        small = nn.initializers.normal(0.02)
        token = self.param("class_token", small, (width,), jnp.dtype(config.param_dtype))
        shape = (x.shape[1] + 1, width)
        positions = self.param("positions", small, shape, jnp.dtype(config.param_dtype))
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width))
        x = jnp.concatenate([token, x], axis=1) + positions.astype(x.dtype)

        blocks = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=_DEPTH
        )
        x, _ = blocks(config, name="blocks")(x, None)
        return _norm(config, "norm")(x[:, 0])


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Maps (B, S, E) to (B, S, E); the second argument and result are what a scan wants."""
        config, types = self.config, _types(self.config)
        attention = nn.MultiHeadDotProductAttention(
            config.heads,
            **types,
            # Unconditionally, it would take float64 down to float32.
            force_fp32_for_softmax=config.wide_dtype == jnp.float32,
            name="attention",
        )
        x = x + attention(_norm(config, "norm1")(x))
        y = _norm(config, "norm2")(x)
        y = nn.Dense(_MLP_WIDENING * config.channels, **types, name="up")(y)
        y = nn.Dense(config.channels, **types, name="down")(nn.gelu(y, approximate=False))
        return x + y, None


def _norm(config: VisionConfig, name: str) -> nn.LayerNorm:
    # The fast variance cancels, and clips at zero.
    return nn.LayerNorm(**_types(config), use_fast_variance=False, name=name)


def _types(config: VisionConfig) -> dict[str, Any]:
    return {"dtype": config.dtype, "param_dtype": config.param_dtype}
