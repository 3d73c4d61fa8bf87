"""The shapes of well-known models, to plan for them without a download.

The fields of their `config.json` on the Hugging Face hub that shape the decoder (meta-llama/
Llama-2-7b-hf, Llama-3.1-8B, Meta-Llama-3-70B, Llama-3.1-405B, Llama-3.2-1B). Sources of the same
figures: Touvron et al., 2023, arXiv:2307.09288; Llama Team, 2024, arXiv:2407.21783, table 3.
"""

from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.families import decoder_config


def _llama_3(factor: float | None = None, **fields: Any) -> dict[str, Any]:
    """A model of the third generation; of 3.1 and later, which stretch positions by `factor`."""
    scaling = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    return {
        "model_type": "llama",
        "vocab_size": 128256,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192 if factor is None else 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None if factor is None else scaling,
        **fields,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    "llama-3.2-1b": _llama_3(
        32.0,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        head_dim=64,
        tie_word_embeddings=True,
    ),
    "llama-3.1-8b": _llama_3(
        8.0,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
    ),
    "llama-3-70b": _llama_3(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
    ),
    "llama-3.1-405b": _llama_3(
        8.0,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
        num_attention_heads=128,
    ),
}
"""By name, as in a `config.json`."""


def published(name: str, **numerics: Any) -> DecoderConfig:
    """The configuration of a well-known model.

    Args:
      name: a key of `PUBLISHED`.
      **numerics: `dtype`, `param_dtype` and `remat`, as of `families.decoder_config`.

    Raises:
      InputError: there is no such model.

    >>> published("llama-3.1-8b").num_hidden_layers
    32
    """
    if name not in PUBLISHED:
        raise InputError(f"model is {name!r}; expected one of {', '.join(PUBLISHED)}")
    return decoder_config(PUBLISHED[name], name, **numerics)
