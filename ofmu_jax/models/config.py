"""The shape and numerics of a decoder."""

import dataclasses

import jax.numpy as jnp

from ofmu_jax.errors import InputError

_DTYPES = ("bfloat16", "float16", "float32", "float64")
_REMAT = ("none", "full", "dots")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of a decoder, under the names of a Hugging Face `config.json`.

    Attributes:
      vocab_size: number of token ids.
      hidden_size: width of the residual stream.
      intermediate_size: width inside the gated MLP.
      num_hidden_layers: number of blocks.
      num_attention_heads: number of query heads.
      num_key_value_heads: number of key-value heads; divides `num_attention_heads`.
      head_dim: width of a head; `hidden_size // num_attention_heads` if None.
      max_position_embeddings: longest sequence, in tokens.
      rope_theta: base of the rotary frequencies.
      rms_norm_eps: added to the mean square before its root.
      tie_word_embeddings: whether the output projection is the embedding table.
      initializer_range: standard deviation of the initial weights.
      dtype: compute type; norms, softmax and logits are float32 at least.
      param_dtype: storage type of the parameters.
      remat: what the backward pass recomputes: "none", "full" (everything within a block) or
        "dots" (everything but the weight matmuls).

    Raises:
      InputError: a value is out of its range or two do not fit together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type not in (int, float):
                continue
            # A YAML reader returns "1e-5" as text, which must not get as far as `> 0`.
            number = int if field.type is int else int | float
            if not (isinstance(value, number) and value > 0):
                kind = "an integer" if field.type is int else "a number"
                raise InputError(f"DecoderConfig.{field.name} is {value!r}; expected {kind} > 0")
        for name, allowed in (
            ("dtype", _DTYPES),
            ("param_dtype", _DTYPES),
            ("remat", _REMAT),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"DecoderConfig.{name} is {getattr(self, name)!r}; expected one of {allowed}"
                )
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"DecoderConfig.num_key_value_heads is {self.num_key_value_heads}; "
                f"expected a divisor of num_attention_heads = {self.num_attention_heads}"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"DecoderConfig.num_attention_heads is {self.num_attention_heads}; expected a "
                f"divisor of hidden_size = {self.hidden_size}, or an explicit head_dim"
            )
        if self.head_size <= 0 or self.head_size % 2:
            raise InputError(
                f"DecoderConfig head width is {self.head_size}; expected even and > 0, since "
                "rotary positions turn pairs of features"
            )

    @property
    def head_size(self) -> int:
        """Width of a head, with `head_dim=None` resolved."""
        if self.head_dim is None:
            return self.hidden_size // self.num_attention_heads
        return self.head_dim

    @property
    def wide_dtype(self) -> jnp.dtype:
        """The type of norms, softmax and logits: `dtype`, but float32 at least."""
        return jnp.promote_types(self.dtype, jnp.float32)
