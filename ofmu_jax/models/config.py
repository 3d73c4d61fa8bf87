"""The shape and numerics of a decoder."""

import dataclasses
import types
import typing
from typing import Any, Literal

import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.rope import LongRope, RopeScaling

DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of a decoder.

    The defaults are those of Llama 2. `models.families` maps a Hugging Face `config.json` to it,
    whose names it keeps where they exist.

    Attributes:
      vocab_size: number of token ids, V.
      hidden_size: width of the residual stream, E.
      intermediate_size: width inside the MLP, F.
      num_hidden_layers: number of blocks, L.
      num_attention_heads: number of query heads, H.
      num_key_value_heads: number of key-value heads, K; divides `num_attention_heads`.
      head_dim: width of a head, D; `hidden_size // num_attention_heads` if None.
      max_position_embeddings: longest sequence, in tokens.
      norm: "rms", "rms_unit_offset" (Gemma: the stored scale is one less than that applied), or
        "layer" (with bias).
      norm_eps: added to the mean square, or the variance, before its root.
      sandwich_norm: norms after attention and MLP as well as before (Gemma 2).
      parallel_block: attention and MLP read the same norm (Phi).
      rope_theta: base of the rotary frequencies.
      rope_scaling: how long-context models rescale them.
      partial_rotary_factor: the part of a head's features that turns.
      attention_bias: whether the query, key and value projections have a bias.
      output_bias: whether the output projection of attention has one.
      qk_norm: RMSNorm of every query and key head (Qwen3).
      query_scale: what scores are divided by the root of; the head width if None.
      attn_logit_softcapping: bound c on scores, as c tanh(score / c).
      layer_windows: how many tokens each layer sees, None for all; a single None for all layers.
      activation: the MLP's non-linearity.
      gated_mlp: whether a second projection multiplies the activation.
      mlp_bias: whether the MLP's projections have a bias.
      scale_embeddings: multiplies embeddings by the root of `hidden_size` (Gemma).
      tie_word_embeddings: whether the output projection is the embedding table.
      head_bias: whether the output projection has a bias.
      final_logit_softcapping: bound on the logits, as above.
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
    norm: Literal["rms", "rms_unit_offset", "layer"] = "rms"
    norm_eps: float = 1e-5
    sandwich_norm: bool = False
    parallel_block: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    query_scale: float | None = None
    attn_logit_softcapping: float | None = None
    layer_windows: tuple[int | None, ...] | None = None
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated_mlp: bool = True
    mlp_bias: bool = False
    scale_embeddings: bool = False
    tie_word_embeddings: bool = False
    head_bias: bool = False
    final_logit_softcapping: float | None = None
    initializer_range: float = 0.02
    dtype: Literal["bfloat16", "float16", "float32", "float64"] = "float32"
    param_dtype: Literal["bfloat16", "float16", "float32", "float64"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"

    def __post_init__(self) -> None:
        for field, kind in typing.get_type_hints(type(self)).items():
            _check(f"DecoderConfig.{field}", getattr(self, field), kind)
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
        turning = int(self.head_size * self.partial_rotary_factor)
        if not 0 < turning <= self.head_size or turning % 2:
            raise InputError(
                f"DecoderConfig: {turning} of the {self.head_size} features of a head turn; "
                "expected an even number > 0 of them, since rotary positions turn pairs"
            )
        if self.layer_windows is not None and len(self.layer_windows) != self.num_hidden_layers:
            raise InputError(
                f"DecoderConfig.layer_windows has {len(self.layer_windows)} entries; expected "
                f"num_hidden_layers = {self.num_hidden_layers}"
            )
        if self.rope_scaling is not None:
            for field, kind in typing.get_type_hints(type(self.rope_scaling)).items():
                value, entry = getattr(self.rope_scaling, field), typing.get_origin(kind) is tuple
                for number in value if entry else [value]:
                    _check(f"rope_scaling.{field}", number, float if entry else kind)
        if isinstance(self.rope_scaling, LongRope):
            for name in ("short_factor", "long_factor"):
                if (count := len(getattr(self.rope_scaling, name))) != turning // 2:
                    raise InputError(
                        f"rope_scaling.{name} has {count} entries; expected {turning // 2}, half "
                        "of the features of a head that turn"
                    )

    @property
    def head_size(self) -> int:
        """Width of a head, with `head_dim=None` resolved."""
        if self.head_dim is None:
            return self.hidden_size // self.num_attention_heads
        return self.head_dim

    @property
    def rotary_size(self) -> int:
        """Number of features of a head that turn."""
        return int(self.head_size * self.partial_rotary_factor)

    @property
    def wide_dtype(self) -> jnp.dtype:
        """The type of norms, softmax and logits: `dtype`, but float32 at least."""
        return jnp.promote_types(self.dtype, jnp.float32)


def _check(where: str, value: Any, kind: Any) -> None:
    """Refuses numbers that are not positive and words that are not on the list."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value not in options:
            raise InputError(f"{where} is {value!r}; expected one of {options}")
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is not None and options[0] in (int, float):
            _check(where, value, options[0])
        elif value is not None and typing.get_origin(options[0]) is tuple:
            for entry in value:
                _check(where, entry, int | None)
    elif kind in (int, float):
        # A YAML reader returns "1e-5" as text, which must not get as far as `> 0`.
        number = int if kind is int else int | float
        if isinstance(value, bool) or not (isinstance(value, number) and value > 0):
            name = "an integer" if kind is int else "a number"
            raise InputError(f"{where} is {value!r}; expected {name} > 0")
    elif kind is bool and not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}; expected true or false")
