"""A Llama-style decoder in Flax: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The architecture of Touvron et al. (2023, arXiv:2307.09288) with the parameter names and the
rotary convention of Hugging Face's `LlamaForCausalLM`. Layers run under `nn.scan`, so compile
time does not grow with depth and every layer parameter has a leading layer axis. Everything is
plain `jnp`, hence differentiable to any order: unlearning needs a third one.
"""

import functools
from typing import Any, NamedTuple, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from ofmu_jax.errors import InputError
from ofmu_jax.models.config import DecoderConfig

Params: TypeAlias = dict[str, Any]

_REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
_ACTIVATION_AXES = ("batch", "length", "embed")


class Cache(NamedTuple):
    """Keys and values of past tokens, each (layers, batch, slots, kv heads, head width)."""

    key: jax.Array
    value: jax.Array


class Context(NamedTuple):
    """What every layer shares; B may be 1 where all rows agree.

    Attributes:
      positions: (B, S) int32, the position of each token.
      cos: (B, S, 1, D), rotary cosines.
      sin: (B, S, 1, D), rotary sines.
      visible: (B, S, T) bool, whether a query sees a key.
    """

    positions: jax.Array
    cos: jax.Array
    sin: jax.Array
    visible: jax.Array


def _context(config: DecoderConfig, positions: jax.Array, num_keys: int) -> Context:
    exponents = jnp.arange(0, config.head_size, 2, dtype=config.wide_dtype) / config.head_size
    angles = positions[..., None] * config.rope_theta**-exponents
    angles = jnp.concatenate([angles, angles], axis=-1)[:, :, None]
    visible = jnp.arange(num_keys) <= positions[..., None]
    return Context(positions, jnp.cos(angles), jnp.sin(angles), visible)


def _rotate(x: jax.Array, context: Context) -> jax.Array:
    # Feature i turns together with i + D/2, not with its neighbour as in Meta's own layout.
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * context.cos + turned * context.sin).astype(x.dtype)


def _named(init: Initializer, axes: tuple[str, ...]) -> Initializer:
    # `Module.param` unboxes what this returns, which its type does not tell.
    return cast(Initializer, nn.with_logical_partitioning(init, axes))


class _Layer(nn.Module):
    config: DecoderConfig

    def weight(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        init = _named(nn.initializers.normal(self.config.initializer_range), axes)
        value = self.param(name, init, shape, jnp.dtype(self.config.param_dtype))
        return value.astype(self.config.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, 2019), in float32 at least."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., E) to (..., E), same type."""
        init = _named(nn.initializers.ones, ("embed",))
        scale = self.param("weight", init, x.shape[-1:], jnp.dtype(self.config.param_dtype))
        wide = x.astype(self.config.wide_dtype)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.config.rms_norm_eps)
        return (normed * scale).astype(x.dtype)


class Attention(_Layer):
    """Causal grouped-query attention (Ainslie et al., 2023) with rotary positions."""

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        """Maps (B, S, E) to (B, S, E), and one layer's cache to its successor."""
        config = self.config
        batch, length, embed = x.shape
        heads, groups, width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_size,
        )
        w_q = self.weight("q_proj", (embed, heads, width), ("embed", "heads", "head_dim"))
        w_k = self.weight("k_proj", (embed, groups, width), ("embed", "kv_heads", "head_dim"))
        w_v = self.weight("v_proj", (embed, groups, width), ("embed", "kv_heads", "head_dim"))
        w_o = self.weight("o_proj", (heads, width, embed), ("heads", "head_dim", "embed"))

        query = _rotate(jnp.einsum("bse,ehd->bshd", x, w_q), context)
        key = _rotate(jnp.einsum("bse,ekd->bskd", x, w_k), context)
        value = jnp.einsum("bse,ekd->bskd", x, w_v)
        if cache is not None:
            slots = jnp.arange(batch)[:, None], context.positions
            cache = Cache(cache.key.at[slots].set(key), cache.value.at[slots].set(value))
            key, value = cache

        # Query heads come in consecutive runs that read the same key-value head.
        query = query.reshape(batch, length, groups, heads // groups, width)
        scores = jnp.einsum(
            "bskgd,btkd->bkgst", query, key, preferred_element_type=config.wide_dtype
        )
        visible = context.visible[:, None, None]
        scores = jnp.where(visible, scores / width**0.5, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bkgst,btkd->bskgd", weights, value)
        mixed = mixed.reshape(batch, length, heads, width)
        return jnp.einsum("bshd,hde->bse", mixed, w_o), cache


class MLP(_Layer):
    """Gated MLP with SiLU (Shazeer, 2020)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, S, E) to (B, S, E)."""
        embed, hidden = x.shape[-1], self.config.intermediate_size
        gate = self.weight("gate_proj", (embed, hidden), ("embed", "mlp"))
        up = self.weight("up_proj", (embed, hidden), ("embed", "mlp"))
        down = self.weight("down_proj", (hidden, embed), ("mlp", "embed"))
        return (jax.nn.silu(x @ gate) * (x @ up)) @ down


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        """Maps (B, S, E) to (B, S, E), and one layer's cache to its successor."""
        config = self.config
        normed = RMSNorm(config, name="input_layernorm")(x)
        attended, cache = Attention(config, name="self_attn")(normed, context, cache)
        x = x + attended
        normed = RMSNorm(config, name="post_attention_layernorm")(x)
        x = x + MLP(config, name="mlp")(normed)
        return nn.with_logical_constraint(x, _ACTIVATION_AXES), cache


class Decoder(_Layer):
    """Token ids to next-token logits; `forward` and `forward_cached` are the plain functions."""

    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array | None = None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """Maps (B, S) int32 to logits (B, S, V), and a cache to its successor."""
        config = self.config
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        context = _context(
            config, positions, tokens.shape[1] if cache is None else cache.key.shape[2]
        )

        shape, axes = (config.vocab_size, config.hidden_size), ("vocab", "embed")
        embedding = self.weight("embed_tokens", shape, axes)
        x = nn.with_logical_constraint(embedding[tokens], _ACTIVATION_AXES)

        block = Block
        if config.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=_REMAT_POLICIES[config.remat])
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=config.num_hidden_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, cache = layers(config, name="layers")(x, context, cache)
        x = RMSNorm(config, name="norm")(x)
        head = embedding if config.tie_word_embeddings else self.weight("lm_head", shape, axes)
        logits = jnp.einsum("bse,ve->bsv", x, head, preferred_element_type=config.wide_dtype)
        return logits, cache


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Draws parameters: normal weights of deviation `initializer_range`, unit norm scales.

    Args:
      config: the shape of the model.
      key: a `jax.random` key.

    Returns:
      A nested dict of arrays in `param_dtype`; those under "layers" lead with the layer axis.

    >>> config = DecoderConfig(8, 4, 6, 3, 2, 1)
    >>> init_params(config, jax.random.key(0))["layers"]["self_attn"]["q_proj"].shape
    (3, 4, 2, 2)
    """
    variables = Decoder(config).init(key, jnp.zeros((1, 1), jnp.int32))
    return nn.meta.unbox(variables)["params"]


def logical_axes(config: DecoderConfig) -> dict[str, Any]:
    """Names the axes of every parameter, for a table of sharding rules to map to a mesh.

    Args:
      config: the shape of the model.

    Returns:
      The tree of `init_params`, with a `jax.sharding.PartitionSpec` of names at each leaf.

    >>> tuple(logical_axes(DecoderConfig(8, 4, 6, 3, 2, 1))["layers"]["mlp"]["down_proj"])
    ('layers', 'mlp', 'embed')
    """
    variables = jax.eval_shape(
        lambda: Decoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    )
    return nn.get_partition_spec(variables)["params"]


def forward(config: DecoderConfig, params: Params, tokens: jax.Array) -> jax.Array:
    """Next-token logits of whole sequences.

    Attention is causal, so padding on the right changes no logits before it.

    Args:
      config: the shape of the model.
      params: as from `init_params`.
      tokens: (B, S) int32.

    Returns:
      (B, S, V) logits in float32 (float64 where `dtype` is).

    Raises:
      InputError: S exceeds `max_position_embeddings`.
    """
    _check_length(config, tokens.shape[1], "a sequence")
    return Decoder(config).apply({"params": params}, tokens)[0]


def init_cache(config: DecoderConfig, batch_size: int, length: int) -> Cache:
    """An empty cache of `length` slots for each of `batch_size` rows.

    Args:
      config: the shape of the model.
      batch_size: B.
      length: C, in tokens.

    Returns:
      Zeros of shape (L, B, C, K, D) in `dtype`, for keys and for values.

    Raises:
      InputError: `length` exceeds `max_position_embeddings`.
    """
    _check_length(config, length, "a cache")
    shape = (
        config.num_hidden_layers,
        batch_size,
        length,
        config.num_key_value_heads,
        config.head_size,
    )
    return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def forward_cached(
    config: DecoderConfig, params: Params, tokens: jax.Array, positions: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Next-token logits of a piece of a sequence, given the cache of what came before.

    A token is written to the slot equal to its position and sees the slots up to its own. What
    the right padding of a short prompt leaves in later slots is thus overwritten by the tokens
    that belong there before anything can see it.

    Args:
      config: the shape of the model.
      params: as from `init_params`.
      tokens: (B, S) int32.
      positions: (B, S) int32, below the cache's length and distinct within a row.
      cache: as from `init_cache`, C slots.

    Returns:
      (B, S, V) logits, typed as in `forward`, and the cache with the S tokens added.
    """
    applied = Decoder(config).apply({"params": params}, tokens, positions, cache)
    return cast(tuple[jax.Array, Cache], applied)


def _check_length(config: DecoderConfig, length: int, what: str) -> None:
    if length > config.max_position_embeddings:
        raise InputError(
            f"{what} has {length} tokens; expected at most "
            f"DecoderConfig.max_position_embeddings = {config.max_position_embeddings}"
        )
