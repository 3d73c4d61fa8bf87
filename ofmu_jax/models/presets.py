"""Small named decoder shapes for demonstrations and tests.

With 1,024 token ids and tied embeddings, "pocket" has 0.4 million parameters, "nano" 0.9 and
"micro" 3.2.
"""

from typing import Any

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig

PRESETS: dict[str, dict[str, Any]] = {
    "pocket": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "nano": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "micro": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
}


def preset(
    name: str, vocab_size: int, max_position_embeddings: int, **numerics: Any
) -> DecoderConfig:
    """The configuration of a named shape, with tied embeddings.

    Args:
      name: a key of `PRESETS`.
      vocab_size: number of token ids.
      max_position_embeddings: longest sequence, in tokens.
      **numerics: `dtype`, `param_dtype` and `remat`; float32 and "none" if not given.

    Returns:
      The configuration.

    Raises:
      InputError: there is no such preset.

    >>> preset("pocket", vocab_size=1024, max_position_embeddings=128).head_size
    24
    """
    if name not in PRESETS:
        raise InputError(f"model preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return DecoderConfig(
        vocab_size=vocab_size,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        **PRESETS[name],
        **numerics,
    )
