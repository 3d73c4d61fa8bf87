"""The parts of a decoder layer: norms, attention, MLP, and the block that joins them."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from ofmu_jax.models.config import DecoderConfig

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Cache(NamedTuple):
    """One layer's keys and values of past tokens.

    Attributes:
      key: (batch, kv heads, head width, slots); so laid out, scores of one query are a sum of
        contiguous rows, three times as fast on a CPU.
      value: (batch, kv heads, slots, head width).
    """

    key: jax.Array
    value: jax.Array


class Context(NamedTuple):
    """What every layer shares; B may be 1 where all rows agree.

    Attributes:
      cos: (B, 1, S, R), rotary cosines of the R features that turn.
      sin: (B, 1, S, R), rotary sines.
      visible: (B, S, T) bool, whether a query may see a key.
      distances: (S, T) int32, how many slots the key lies before the query.
    """

    cos: jax.Array
    sin: jax.Array
    visible: jax.Array
    distances: jax.Array


def named(x: jax.Array, *axes: str) -> jax.Array:
    """`x` with its axes named, for sharding rules to act on; without rules, `x`."""
    return cast(jax.Array, nn.with_logical_constraint(x, axes))


def rotate(x: jax.Array, context: Context) -> jax.Array:
    """Turns the first R features of (B, H, S, D) by their positions."""
    width = context.cos.shape[-1]
    turning, still = x[..., :width], x[..., width:]
    # Feature i turns together with i + R/2, not with its neighbour as in Meta's own layout.
    first, second = jnp.split(turning, 2, axis=-1)
    turned = turning * context.cos + jnp.concatenate([-second, first], axis=-1) * context.sin
    return jnp.concatenate([turned.astype(x.dtype), still], axis=-1)


def project(x: jax.Array, weight: jax.Array, bias: jax.Array | None, inputs: int = 1) -> jax.Array:
    """Contracts the last `inputs` axes of `x` with the first ones of `weight`.

    As one matrix product: on a CPU, the gradients of one with two batch axes take twice as long.
    """
    batch, inner = x.shape[: x.ndim - inputs], weight.shape[:inputs]
    rows = x.reshape(-1, math.prod(inner))
    out = (rows @ weight.reshape(rows.shape[1], -1)).reshape(*batch, *weight.shape[inputs:])
    return out if bias is None else out + bias


class Parameters(nn.Module):
    """A module whose parameters have named axes, the storage type, and are used in `dtype`."""

    config: DecoderConfig

    def weight(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        """A matrix, drawn from a normal distribution."""
        return self._parameter(
            name, shape, axes, nn.initializers.normal(self.config.initializer_range)
        )

    def bias(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        """Zeros at first."""
        return self._parameter(f"{name}_bias", shape, axes, nn.initializers.zeros)

    def _parameter(
        self, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initializer
    ) -> jax.Array:
        # `Module.param` unboxes what this returns, which its type does not tell.
        init = cast(Initializer, nn.with_logical_partitioning(init, axes))
        value = self.param(name, init, shape, jnp.dtype(self.config.param_dtype))
        return value.astype(self.config.dtype)


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016), in float32 at least."""

    config: DecoderConfig
    kind: str | None = None
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., E) to (..., E), same type."""
        config, kind = self.config, self.kind or self.config.norm
        offset = 1.0 if kind == "rms_unit_offset" else 0.0
        scale = self._vector("weight", x.shape[-1], fill=1.0 - offset)
        wide = x.astype(config.wide_dtype)
        if kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + config.norm_eps) * (scale + offset)
        if kind == "layer":
            normed = normed + self._vector("bias", x.shape[-1], fill=0.0)
        return normed.astype(x.dtype)

    def _vector(self, name: str, size: int, fill: float) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.constant(fill), (self.axis,))
        value = self.param(name, cast(Initializer, init), (size,), self.config.param_dtype)
        return value.astype(self.config.wide_dtype)


class Attention(Parameters):
    """Causal grouped-query attention (Ainslie et al., 2023) with rotary positions."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: Context,
        window: jax.Array | int | None,
        cache: Cache | None,
        slot: jax.Array | int,
    ) -> tuple[jax.Array, Cache | None]:
        """Maps (B, S, E) to (B, S, E), and one layer's cache to its successor."""
        config = self.config
        batch, length, embed = x.shape
        heads, groups, width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_size,
        )

        def head_states(name: str, count: int, axis: str) -> jax.Array:
            weight = self.weight(f"{name}_proj", (embed, count, width), ("embed", axis, "head_dim"))
            bias = None
            if config.attention_bias:
                bias = self.bias(f"{name}_proj", (count, width), (axis, "head_dim"))
            states = project(x, weight, bias)
            if config.qk_norm and name != "v":
                states = Norm(config, kind="rms", axis="head_dim", name=f"{name}_norm")(states)
            states = named(states, "batch", "length", axis, "head_dim").transpose(0, 2, 1, 3)
            return states if name == "v" else rotate(states, context)

        query = head_states("q", heads, "heads")
        key = head_states("k", groups, "kv_heads")
        value = head_states("v", groups, "kv_heads")
        w_o = self.weight("o_proj", (heads, width, embed), ("heads", "head_dim", "embed"))
        bias = self.bias("o_proj", (embed,), ("embed",)) if config.output_bias else None
        key = jnp.swapaxes(key, 2, 3)
        if cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            key = write(cache.key, key, slot, axis=3)
            value = write(cache.value, value, slot, axis=2)
            cache = Cache(key, value)

        # Query heads come in consecutive runs that read the same key-value head.
        query = query.reshape(batch, groups, heads // groups, length, width)
        scores = jnp.einsum(
            "bkgsd,bkdt->bkgst", query, key, preferred_element_type=config.wide_dtype
        )
        scores = scores / (config.query_scale or width) ** 0.5
        if config.attn_logit_softcapping is not None:
            cap = config.attn_logit_softcapping
            scores = cap * jnp.tanh(scores / cap)
        visible = context.visible
        if window is not None:
            visible = visible & (context.distances < window)
        scores = jnp.where(visible[:, None, None], scores, jnp.finfo(scores.dtype).min)
        scores = named(scores, "batch", "kv_heads", "query_groups", "length", "keys")
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bkgst,bktd->bkgsd", weights, value)
        mixed = mixed.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)
        mixed = named(mixed, "batch", "length", "heads", "head_dim")
        return named(project(mixed, w_o, bias, 2), "batch", "length", "embed"), cache


class MLP(Parameters):
    """Two projections around an activation, gated (Shazeer, 2020) or not."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, S, E) to (B, S, E)."""
        config = self.config
        embed, hidden = x.shape[-1], config.intermediate_size

        def linear(name: str, y: jax.Array, axes: tuple[str, str], size: int) -> jax.Array:
            weight = self.weight(name, (y.shape[-1], size), axes)
            bias = self.bias(name, (size,), axes[1:]) if config.mlp_bias else None
            return named(project(y, weight, bias), "batch", "length", axes[1])

        inner = linear("up_proj", x, ("embed", "mlp"), hidden)
        activate = _ACTIVATIONS[config.activation]
        if config.gated_mlp:
            inner = activate(linear("gate_proj", x, ("embed", "mlp"), hidden)) * inner
        else:
            inner = activate(inner)
        return linear("down_proj", inner, ("mlp", "embed"), embed)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: Context,
        window: jax.Array | int | None,
        cache: Cache | None = None,
        slot: jax.Array | int = 0,
    ) -> tuple[jax.Array, Cache | None]:
        """Maps (B, S, E) to (B, S, E), and one layer's cache to its successor."""
        config = self.config

        def norm(name: str, y: jax.Array) -> jax.Array:
            return Norm(config, name=name)(y)

        normed = norm("input_layernorm", x)
        attended, cache = Attention(config, name="self_attn")(normed, context, window, cache, slot)
        mlp = MLP(config, name="mlp")
        if config.parallel_block:
            x = x + attended + mlp(normed)
        elif config.sandwich_norm:
            x = x + norm("post_attention_layernorm", attended)
            inner = mlp(norm("pre_feedforward_layernorm", x))
            x = x + norm("post_feedforward_layernorm", inner)
        else:
            x = x + attended
            x = x + mlp(norm("post_attention_layernorm", x))
        return named(x, "batch", "length", "embed"), cache
