"""One configurable decoder in Flax for the language models that people unlearn.

The blocks of Llama and its relatives (Touvron et al., 2023, arXiv:2307.09288), with the parameter
names and the rotary convention of Hugging Face. Layers run under `nn.scan`, so compile time does
not grow with depth and every layer parameter has a leading layer axis. Everything is plain `jnp`,
hence differentiable to any order: unlearning needs a third one.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofmu_jax.errors import InputError
from ofmu_jax.models.blocks import Block, Cache, Context, Norm, Parameters, named
from ofmu_jax.models.config import DecoderConfig
from ofmu_jax.models.rope import frequencies

Params: TypeAlias = dict[str, Any]

_REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Decoder(Parameters):
    """Token ids to next-token logits; `forward` is the plain function."""

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, hidden: bool = False
    ) -> jax.Array:
        """Maps (B, S) int32, with a mask of what is no padding, to logits (B, S, V).

        With `hidden`, to what leaves the last block (B, S, E), before the final norm.
        """
        config = self.config
        length = tokens.shape[1]
        slots = jnp.arange(length)
        if mask is None:
            mask, positions = jnp.ones((1, length), bool), slots[None]
        else:
            positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        context = _context(config, positions, slots, mask, length)

        embedding = self.weight("embed_tokens", *_table(config))
        x = embed(config, embedding, tokens)

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
        x, _ = layers(config, name="layers")(x, context, _windows(config, length))
        if hidden:
            return x
        x = Norm(config, name="norm")(x)
        head, bias = embedding, None
        if not config.tie_word_embeddings:
            head = self.weight("lm_head", *_table(config))
        if config.head_bias:
            bias = self.bias("lm_head", (config.vocab_size,), ("vocab",))
        return logits(config, head, bias, x)


def embed(config: DecoderConfig, table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Embeddings (B, S, E) of (B, S) tokens."""
    # The lookup wants the rows' features whole, or what it gives would be split by features.
    x = named(table.astype(config.dtype), "vocab", "features")[tokens]
    if config.scale_embeddings:
        x = x * jnp.asarray(config.hidden_size**0.5, x.dtype)
    return named(x, "batch", "length", "embed")


def logits(
    config: DecoderConfig, head: jax.Array, bias: jax.Array | None, x: jax.Array
) -> jax.Array:
    """Logits (B, S, V) of the normed residual stream (B, S, E), in `wide_dtype`."""
    # One matrix product with the small operand transposed: the gradient of an einsum would have
    # XLA transpose the large one, (B, S, V), which on a CPU costs more than the product.
    rows = x.reshape(-1, x.shape[-1])
    transposed = head.astype(config.dtype).T
    values = jnp.matmul(rows, transposed, preferred_element_type=config.wide_dtype)
    values = values.reshape(*x.shape[:-1], -1)
    if bias is not None:
        values = values + bias
    if config.final_logit_softcapping is not None:
        cap = config.final_logit_softcapping
        values = cap * jnp.tanh(values / cap)
    return named(values, "batch", "length", "vocab")


def _table(config: DecoderConfig) -> tuple[tuple[int, int], tuple[str, str]]:
    return (config.vocab_size, config.hidden_size), ("vocab", "embed")


def _windows(config: DecoderConfig, length: int) -> jax.Array | None:
    """(L,) int32, how many tokens each layer sees; None where all see all."""
    if config.layer_windows is None:
        return None
    return jnp.array([length if w is None else w for w in config.layer_windows], jnp.int32)


def _context(
    config: DecoderConfig, positions: jax.Array, slots: jax.Array, valid: jax.Array, length: int
) -> Context:
    """What all layers share.

    Args:
      positions: (B, S) int32, of the queries.
      slots: (S,) int32, of the queries among the T keys.
      valid: (B, T) bool, which keys are no padding.
      length: tokens of the whole sequence, for frequencies that depend on it.
    """
    turns, factor = frequencies(config.rotary_size, config.rope_theta, config.rope_scaling, length)
    angles = positions[..., None] * jnp.asarray(turns, config.wide_dtype)
    angles = jnp.concatenate([angles, angles], axis=-1)[:, None]
    distances = slots[:, None] - jnp.arange(valid.shape[1])
    visible = valid[:, None] & (distances >= 0)
    return Context(factor * jnp.cos(angles), factor * jnp.sin(angles), visible, distances)


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Draws parameters: normal weights of deviation `initializer_range`, neutral norms, no bias.

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


def forward(
    config: DecoderConfig, params: Params, tokens: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Next-token logits of whole sequences.

    Attention is causal, so padding on the right changes no logits before it, with or without a
    mask; padding on the left needs one.

    Args:
      config: the shape of the model.
      params: as from `init_params`.
      tokens: (B, S) int32.
      mask: (B, S) bool, False on padding; positions count the tokens that are none.

    Returns:
      (B, S, V) logits in float32 (float64 where `dtype` is); of no meaning on padding.

    Raises:
      InputError: S exceeds `max_position_embeddings`.
    """
    _check_length(config, tokens.shape[1], "a sequence")
    return cast(jax.Array, Decoder(config).apply({"params": params}, tokens, mask))


def hidden_states(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    layer: int,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The residual stream after one block; the blocks behind it are not run.

    Args:
      config: the shape of the model.
      params: as from `init_params`.
      tokens: (B, S) int32.
      layer: the block, counted from 0, as in the names of a checkpoint's tensors.
      mask: (B, S) bool, as in `forward`.

    Returns:
      (B, S, E) in `dtype`, before any norm; of no meaning on padding.

    Raises:
      InputError: the model has no such block; S exceeds `max_position_embeddings`.
    """
    _check_length(config, tokens.shape[1], "a sequence")
    count = config.num_hidden_layers
    if not 0 <= layer < count:
        raise InputError(
            f"layer is {layer}; expected one of 0 to {count - 1}, since the model has {count}"
        )
    windows = config.layer_windows
    shallow = dataclasses.replace(
        config,
        num_hidden_layers=layer + 1,
        layer_windows=None if windows is None else windows[: layer + 1],
    )
    run = params | {"layers": jax.tree.map(lambda x: x[: layer + 1], params["layers"])}
    return cast(jax.Array, Decoder(shallow).apply({"params": run}, tokens, mask, hidden=True))


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as losses take it: a function to logits, with the hidden states on the way.

    Attributes:
      config: the shape of the model.
    """

    config: DecoderConfig

    def __call__(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Logits (B, S, V), as `forward` gives them."""
        return forward(self.config, params, tokens)

    def hidden_states(self, params: Params, tokens: jax.Array, layer: int) -> jax.Array:
        """The output (B, S, E) of block `layer`, as `hidden_states` gives it."""
        return hidden_states(self.config, params, tokens, layer)


class DecodeState(NamedTuple):
    """What one step of generation hands to the next.

    Attributes:
      cache: a `Cache` per layer.
      start: (B,) int32, the first slot of each row that holds no padding.
      slot: () int32, the slot of the next token, the same for all rows.
    """

    cache: tuple[Cache, ...]
    start: jax.Array
    slot: jax.Array


def unstack(config: DecoderConfig, params: Params) -> Params:
    """The parameters with one tree per layer under "layers", as `decode` wants them.

    A loop around `decode` should be given them, or it would slice each layer anew at each token.
    """
    layers = tuple(
        jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(config.num_hidden_layers)
    )
    return params | {"layers": layers}


def init_decoding(
    config: DecoderConfig, batch_size: int, slots: int, start: jax.Array
) -> DecodeState:
    """Empty caches of `slots` tokens for each of `batch_size` rows.

    Args:
      config: the shape of the model.
      batch_size: B.
      slots: C, in tokens, padding on the left included.
      start: (B,) int32, the padding on the left of each row.

    Returns:
      Zero caches in `dtype`, one for each layer.

    Raises:
      InputError: `slots` exceeds `max_position_embeddings`.
    """
    _check_length(config, slots, "a cache")
    shape = (batch_size, config.num_key_value_heads, slots, config.head_size)
    value = jnp.zeros(shape, config.dtype)
    cache = Cache(jnp.swapaxes(value, 2, 3), value)
    return DecodeState((cache,) * config.num_hidden_layers, start, jnp.int32(0))


def decode(
    config: DecoderConfig, params: Params, tokens: jax.Array, state: DecodeState, length: int = 0
) -> tuple[jax.Array, DecodeState]:
    """Logits after a piece of a sequence, given the cache of what came before.

    All rows write the same slots, so rows that are shorter are padded on the left.

    Args:
      config: the shape of the model.
      params: as from `unstack`.
      tokens: (B, S) int32.
      state: as from `init_decoding` or the step before; S slots at least must be left.
      length: tokens that the sequence will have in the end, by which `LongRope` takes its
        frequencies; the same in every step, so that they do not change midway.

    Returns:
      (B, V) logits after the last token, typed as in `forward`, and the next state.
    """
    num_slots = state.cache[0].value.shape[2]
    slots = state.slot + jnp.arange(tokens.shape[1])
    positions = jnp.maximum(slots - state.start[:, None], 0)
    valid = jnp.arange(num_slots) >= state.start[:, None]
    context = _context(config, positions, slots, valid, length)
    x = embed(config, params["embed_tokens"], tokens)
    windows = config.layer_windows or (None,) * config.num_hidden_layers
    caches = []
    for window, layer, cache in zip(windows, params["layers"], state.cache, strict=True):
        block = functools.partial(Block(config).apply, {"params": layer}, slot=state.slot)
        x, cache = cast(tuple[jax.Array, Cache], block(x, context, window, cache))
        caches.append(cache)
    normed = cast(jax.Array, Norm(config).apply({"params": params["norm"]}, x[:, -1:]))
    head = params["embed_tokens"] if config.tie_word_embeddings else params["lm_head"]
    last = logits(config, head, params.get("lm_head_bias"), normed)[:, 0]
    return last, DecodeState(tuple(caches), state.start, state.slot + tokens.shape[1])


def _check_length(config: DecoderConfig, length: int, what: str) -> None:
    if length > config.max_position_embeddings:
        raise InputError(
            f"{what} has {length} tokens; expected at most the model's "
            f"max_position_embeddings = {config.max_position_embeddings}"
        )
