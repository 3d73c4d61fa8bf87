"""Decoder language models."""

from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import (
    Cache,
    Decoder,
    forward,
    forward_cached,
    init_cache,
    init_params,
    logical_axes,
)
from ofmu_jax.models.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "Cache",
    "Decoder",
    "DecoderConfig",
    "forward",
    "forward_cached",
    "init_cache",
    "init_params",
    "logical_axes",
    "preset",
]
