"""Language models: one configurable decoder, Hugging Face folders, adapters, small presets."""

from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.decoder import (
    DecodeState,
    Network,
    Params,
    decode,
    forward,
    hidden_states,
    init_decoding,
    init_params,
    logical_axes,
    unstack,
)
from ofmu_jax.models.families import FAMILIES
from ofmu_jax.models.huggingface import (
    Checkpoint,
    Layout,
    read_checkpoint,
    read_config,
    write_checkpoint,
)
from ofmu_jax.models.lora import Lora, apply_lora, init_lora, read_adapter, write_adapter
from ofmu_jax.models.presets import PRESETS, preset

__all__ = [
    "FAMILIES",
    "PRESETS",
    "Checkpoint",
    "DecodeState",
    "DecoderConfig",
    "Layout",
    "Lora",
    "Network",
    "Params",
    "apply_lora",
    "decode",
    "forward",
    "hidden_states",
    "init_decoding",
    "init_lora",
    "init_params",
    "logical_axes",
    "preset",
    "read_adapter",
    "read_checkpoint",
    "read_config",
    "unstack",
    "write_adapter",
    "write_checkpoint",
]
