"""A small decoder with random parameters and adapters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ofmu_jax.models import (
    DecoderConfig,
    Lora,
    apply_lora,
    forward,
    init_lora,
)
from ofmu_jax.models.tensors import abstract_params

CONFIG = DecoderConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=16,
    initializer_range=0.4,
)
ALL = Lora(rank=2, alpha=3.0)
# Longer than any window of the peers.
TOKENS = np.random.default_rng(0).integers(3, CONFIG.vocab_size, size=(2, 9))
MODEL, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
ATTENTION = [f"layers.self_attn.{name}_proj" for name in "koqv"]
MLP = [f"layers.mlp.{name}_proj" for name in ("down", "gate", "up")]

run = jax.jit(forward, static_argnums=0)
merge = jax.jit(apply_lora, static_argnums=2)


@functools.cache
def make_params(config=CONFIG):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), abstract_params(config)
    )


def make_adapters(params, lora=ALL, seed=0, deviation=0.3):
    """Random adapters, both halves away from zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(deviation * rng.normal(size=x.shape), jnp.float32),
        jax.eval_shape(lambda: init_lora(params, lora, jax.random.key(0))),
    )


def assert_trees_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), actual, expected)


def names(tree):
    """The matrices of a tree of adapters."""
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: "a" in x)[0]
    return [".".join(key.key for key in path) for path, _ in paths]
