import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    DecoderConfig,
    Network,
    decode,
    forward,
    hidden_states,
    init_decoding,
    init_params,
    logical_axes,
    unstack,
)
from ofmu_jax.models.rope import Llama3, LongRope
from tests.models import reference

# Wide initial weights, so that attention is far from uniform and faults show.
CONFIG = DecoderConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
    initializer_range=0.4,
)
run = jax.jit(forward, static_argnums=0)


def make_params(config, seed=0):
    """Random parameters; norm scales too, lest a missing multiplication go unseen."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))

    def draw(path, leaf):
        mean, deviation = (1, 0.1) if path[-1].key == "weight" else (0, config.initializer_range)
        return jnp.asarray(mean + deviation * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_tokens(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(CONFIG.vocab_size, size=shape))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4, "rope_theta": 100.0},
        {"num_key_value_heads": 1, "head_dim": 6},
    ],
)
def test_matches_the_numpy_reference(changes):
    config = dataclasses.replace(CONFIG, **changes)
    params, tokens = make_params(config), make_tokens((2, 9))
    logits = run(config, params, tokens)
    assert logits.shape == (2, 9, 19)
    assert logits.dtype == jnp.float32
    expected = [reference.logits(config, params, np.asarray(row)) for row in tokens]
    np.testing.assert_allclose(logits, np.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_match_the_numpy_reference(layer):
    params, tokens = make_params(CONFIG), make_tokens((2, 9))
    # A block that is not run may hold anything.
    damaged = jax.tree.map(lambda x: x.at[layer + 1 :].set(jnp.nan), params["layers"])
    states = hidden_states(CONFIG, params | {"layers": damaged}, tokens, layer)
    assert states.shape == (2, 9, 16) and states.dtype == jnp.float32
    expected = [reference.states(CONFIG, params, np.asarray(row), layer + 1) for row in tokens]
    np.testing.assert_allclose(states, np.stack(expected), rtol=1e-4, atol=1e-4)
    network = Network(CONFIG)
    np.testing.assert_array_equal(network.hidden_states(params, tokens, layer), states)
    np.testing.assert_array_equal(network(params, tokens), forward(CONFIG, params, tokens))


def test_hidden_states_of_a_block_that_there_is_not():
    params, tokens = make_params(CONFIG), make_tokens((1, 4))
    for layer in (-1, 3):
        with pytest.raises(InputError, match=f"layer is {layer}; expected one of 0 to 2, since"):
            hidden_states(CONFIG, params, tokens, layer)
    with pytest.raises(InputError, match="a sequence has 17 tokens"):
        hidden_states(CONFIG, params, make_tokens((1, 17)), 0)


def test_causality_by_gradients():
    # Distinct tokens and an untied head: the table's row i is the embedding at position i alone.
    length = 8
    params, tokens = make_params(CONFIG), jnp.arange(length)[None]

    def per_position(table):
        return jnp.sum(jnp.square(run(CONFIG, params | {"embed_tokens": table}, tokens)), -1)[0]

    jacobian = jax.jacrev(per_position)(params["embed_tokens"])[:, :length]
    influence = np.abs(jacobian).max(-1)
    assert np.all(influence[np.triu_indices(length, 1)] == 0)
    assert np.all(influence[np.tril_indices(length)] > 0)


def test_right_padding_does_not_change_real_positions():
    params, tokens = make_params(CONFIG), make_tokens((2, 10))
    short = run(CONFIG, params, tokens[:, :6])
    np.testing.assert_allclose(run(CONFIG, params, tokens)[:, :6], short, atol=1e-5)


# What the families differ in; against `transformers` in test_families.
VARIANTS = [
    {},
    {"layer_windows": (3, None, 2)},
    {"norm": "layer", "parallel_block": True, "gated_mlp": False, "activation": "gelu_tanh"},
    {"norm": "rms_unit_offset", "sandwich_norm": True, "scale_embeddings": True, "qk_norm": True},
    {"attention_bias": True, "output_bias": True, "mlp_bias": True, "head_bias": True},
    {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0, "query_scale": 7.0},
    {"rope_scaling": Llama3(4.0, 1.0, 4.0, 8), "partial_rotary_factor": 0.5, "head_dim": 8},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_decoding_with_a_cache_equals_the_whole_sequence_whatever_the_padding(changes):
    config = dataclasses.replace(CONFIG, **changes)
    params, tokens = make_params(config), make_tokens((3, 12))
    lengths, width = np.array([2, 5, 7]), 7
    expected = run(config, params, tokens)
    # Each prompt is padded on the left with tokens that do not belong to it.
    prompts = np.zeros((3, width), np.int32)
    for row, length in enumerate(lengths):
        prompts[row, width - length :] = tokens[row, :length]
    step = jax.jit(functools.partial(decode, config))
    state = init_decoding(config, 3, width + 5, jnp.asarray(width - lengths))
    layers = unstack(config, params)
    logits, state = step(layers, prompts, state)
    rows = np.arange(3)
    np.testing.assert_allclose(logits, expected[rows, lengths - 1], rtol=1e-4, atol=1e-4)
    for offset in range(5):
        fed = tokens[rows, lengths + offset][:, None]
        logits, state = step(layers, fed, state)
        np.testing.assert_allclose(logits, expected[rows, lengths + offset], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_mask_makes_padding_on_the_left_harmless(changes):
    config = dataclasses.replace(CONFIG, **changes)
    params, tokens = make_params(config), make_tokens((2, 12))
    mask = np.arange(12) >= np.array([[0], [5]])
    padded = run(config, params, tokens, mask)
    alone = run(config, params, tokens[1:, 5:])
    np.testing.assert_allclose(padded[0], run(config, params, tokens)[0], atol=1e-5)
    np.testing.assert_allclose(padded[1, 5:], alone[0], rtol=1e-4, atol=1e-4)


def test_a_window_bounds_how_far_a_layer_sees():
    config = dataclasses.replace(CONFIG, num_hidden_layers=1, layer_windows=(3,))
    params, tokens = make_params(config), jnp.arange(8)[None]

    def per_position(table):
        return jnp.sum(jnp.square(run(config, params | {"embed_tokens": table}, tokens)), -1)[0]

    influence = np.abs(jax.jacrev(per_position)(params["embed_tokens"])[:, :8]).max(-1)
    distance = np.arange(8)[:, None] - np.arange(8)
    np.testing.assert_array_equal(influence > 0, (distance >= 0) & (distance < 3))


def test_parameters_are_stacked_over_layers_and_differ_between_them():
    params = init_params(CONFIG, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params["layers"])
    assert shapes["self_attn"] == {
        "q_proj": (3, 16, 4, 4),
        "k_proj": (3, 16, 2, 4),
        "v_proj": (3, 16, 2, 4),
        "o_proj": (3, 4, 4, 16),
    }
    assert shapes["mlp"] == {
        "gate_proj": (3, 16, 24),
        "up_proj": (3, 16, 24),
        "down_proj": (3, 24, 16),
    }
    assert shapes["input_layernorm"] == {"weight": (3, 16)}
    first, second, _ = params["layers"]["mlp"]["up_proj"]
    assert not np.allclose(first, second)
    assert np.std(params["embed_tokens"]) == pytest.approx(0.4, rel=0.15)


def test_grouped_queries_equal_repeated_key_value_heads():
    params, tokens = make_params(CONFIG), make_tokens((2, 7))
    attention = params["layers"]["self_attn"]
    repeated = {name: jnp.repeat(attention[name], 2, axis=2) for name in ("k_proj", "v_proj")}
    layers = params["layers"] | {"self_attn": attention | repeated}
    full = dataclasses.replace(CONFIG, num_key_value_heads=4)
    np.testing.assert_allclose(
        run(full, params | {"layers": layers}, tokens),
        run(CONFIG, params, tokens),
        atol=1e-5,
    )


def test_remat_changes_no_gradient():
    params, tokens = make_params(CONFIG), make_tokens((2, 7))

    def gradient(remat):
        config = dataclasses.replace(CONFIG, remat=remat)
        return jax.grad(lambda p: jnp.mean(jnp.square(run(config, p, tokens))))(params)

    plain = gradient("none")
    for remat in ("full", "dots"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            gradient(remat),
            plain,
        )


@pytest.mark.slow
def test_third_order_equals_finite_differences(x64):
    config = dataclasses.replace(
        CONFIG,
        num_hidden_layers=2,
        initializer_range=0.2,
        dtype="float64",
        param_dtype="float64",
    )
    tokens = make_tokens((2, 5))
    params, u, v = (make_params(config, seed) for seed in (0, 2, 4))

    def hvp(p, remat):
        def loss(p):
            logits = forward(dataclasses.replace(config, remat=remat), p, tokens)
            assert logits.dtype == jnp.float64
            return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

        return jax.jvp(jax.grad(loss), (p,), (u,))[1]

    step, second = 1e-5, jax.jit(functools.partial(hvp, remat="none"))
    ahead = second(jax.tree.map(lambda x, d: x + step * d, params, v))
    behind = second(jax.tree.map(lambda x, d: x - step * d, params, v))
    expected = jax.tree.map(lambda x, y: (x - y) / (2 * step), ahead, behind)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert scale > 1e-3
    for remat in ("none", "full"):
        third = jax.jit(lambda p, r=remat: jax.jvp(lambda q: hvp(q, r), (p,), (v,))[1])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6 * scale),
            third(params),
            expected,
        )


def test_tied_embeddings_share_the_table():
    tied = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    params, tokens = make_params(tied), make_tokens((1, 6))
    assert "lm_head" not in params
    untied = params | {"lm_head": params["embed_tokens"]}
    np.testing.assert_array_equal(run(tied, params, tokens), run(CONFIG, untied, tokens))


@pytest.mark.parametrize("tied", [False, True])
def test_logical_axes_name_every_axis_of_every_parameter(tied):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    params, axes = init_params(config, jax.random.key(0)), logical_axes(config)
    jax.tree.map(lambda x, names: np.testing.assert_equal(len(names), x.ndim), params, axes)
    assert tuple(axes["layers"]["self_attn"]["k_proj"]) == (
        "layers",
        "embed",
        "kv_heads",
        "head_dim",
    )


def test_compute_type_is_separate_from_storage_and_logits():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    params, tokens = make_params(config), make_tokens((1, 6))
    assert params["layers"]["mlp"]["up_proj"].dtype == jnp.float32
    logits = run(config, params, tokens)
    assert logits.dtype == jnp.float32
    assert init_decoding(config, 1, 4, jnp.zeros(1)).cache[0].key.dtype == jnp.bfloat16
    full = np.asarray(forward(CONFIG, params, tokens))
    assert 0 < np.abs(logits - full).max() < 0.1 * np.abs(full).max()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"vocab_size": 19.0}, "vocab_size"),
        ({"norm_eps": "1e-5"}, "norm_eps"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, "num_attention_heads"),
        ({"head_dim": 5}, "even"),
        ({"head_dim": -2}, "head_dim"),
        ({"dtype": "float31"}, "dtype"),
        ({"remat": "some"}, "remat"),
        ({"norm": "batch"}, "norm"),
        ({"activation": "tanh"}, "activation"),
        ({"layer_windows": (3, None)}, "layer_windows has 2"),
        ({"layer_windows": (3, None, 0)}, "layer_windows"),
        ({"attn_logit_softcapping": -1.0}, "attn_logit_softcapping"),
        ({"partial_rotary_factor": 0.3}, "even"),
        ({"partial_rotary_factor": 2.0}, "even"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"rope_scaling": LongRope((1.0,), (1.0, 2.0), 8, 1.0)}, "short_factor has 1"),
    ],
)
def test_bad_configurations_are_named(changes, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(CONFIG, **changes)


def test_too_long_a_sequence_is_an_error():
    params = init_params(CONFIG, jax.random.key(0))
    with pytest.raises(InputError, match="17 tokens"):
        forward(CONFIG, params, jnp.zeros((1, 17), jnp.int32))
    with pytest.raises(InputError, match="17 tokens"):
        init_decoding(CONFIG, 1, 17, jnp.zeros(1))
