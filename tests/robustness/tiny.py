"""A decoder of a few hundred weights."""

import jax
import numpy as np

from ofmu_jax.models import DecoderConfig, init_params

CONFIG = DecoderConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
)


def params(seed=0, config=CONFIG):
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))


def by_name(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
