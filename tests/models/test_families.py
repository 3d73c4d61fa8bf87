"""Every family against `transformers`, on tiny random models."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals.generation import generate
from ofmu_jax.models import FAMILIES, forward, hidden_states, read_checkpoint, write_checkpoint
from ofmu_jax.models.blocks import _ACTIVATIONS as FUNCTIONS
from ofmu_jax.models.families import _ACTIVATIONS as NAMES
from ofmu_jax.models.families import decoder_config
from ofmu_jax.models.rope import Linear, Llama3, LongRope, Yarn
from tests.models.peers import LLAMA3, LONGROPE, PEERS, YARN, make, torch, transformers

run = jax.jit(forward, static_argnums=0)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """From a name to the peer, its folder, and what was read from it."""

    @functools.cache
    def load(name):
        folder = tmp_path_factory.mktemp(name)
        return make(name, folder), folder, read_checkpoint(folder)

    return load


def peer_logits(peer, tokens, mask=None, positions=None):
    def tensor(x):
        return None if x is None else torch.tensor(np.asarray(x))

    with torch.no_grad():
        return peer(
            torch.tensor(tokens).long(),
            attention_mask=tensor(mask),
            position_ids=tensor(positions),
        ).logits.numpy()


def make_tokens(shape, seed=0):
    # Without the special ids, which `transformers` might treat otherwise.
    return np.random.default_rng(seed).integers(3, 96, shape).astype(np.int32)


# 40 tokens exceed every window and every original length; LongRoPE has another regime below 24.
@pytest.mark.parametrize(("name", "length"), [*((name, 40) for name in PEERS), ("phi-3.5", 20)])
def test_logits_equal_the_peers_whatever_the_padding(load, name, length):
    peer, _, (config, params, _) = load(name)
    tokens = make_tokens((3, length))
    # One row whole, one padded on the right, one on the left.
    slots = np.arange(length)
    mask = np.stack([slots >= 0, slots < length - 9, slots >= 7])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    expected = peer_logits(peer, tokens, mask, positions)
    logits = np.asarray(run(config, params, tokens, mask))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[mask], expected[mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-3.2", "qwen2.5-window-yarn", "phi-1.5", "gemma-2"])
def test_hidden_states_equal_the_peers(load, name):
    peer, _, (config, params, _) = load(name)
    tokens = make_tokens((2, 40))
    seen = []
    hooks = [
        block.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in peer.model.layers
    ]
    peer_logits(peer, tokens)
    for hook in hooks:
        hook.remove()
    mask = np.arange(40) < np.array([[40], [31]])
    for layer, expected in enumerate(seen):
        states = hidden_states(config, params, tokens, layer, mask)
        np.testing.assert_allclose(
            states[mask], expected.numpy()[mask], rtol=1e-4, atol=1e-4, err_msg=str(layer)
        )
    assert len(seen) == config.num_hidden_layers


# Those that decode along paths of their own; the others take long together.
QUICK = ("qwen2.5-window-yarn", "phi-3.5", "phi-1.5", "gemma-2")


# The lengths and the continuation lie on one side of LongRoPE's 24 tokens.
@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        *(
            pytest.param(name, (3, 9, 14, 5), marks=() if name in QUICK else pytest.mark.slow)
            for name in PEERS
        ),
        ("phi-3.5", (26, 30)),
    ],
)
def test_greedy_continuations_equal_the_peers(load, name, lengths):
    peer, _, (config, params, _) = load(name)
    width, new, stops = max(lengths), 8, tuple(range(8))
    mask = np.arange(width) >= width - np.array(lengths)[:, None]
    tokens = np.where(mask, make_tokens(mask.shape, seed=1), 0)
    ours = generate(config, params, tokens, mask, max_new_tokens=new, stop_ids=stops)
    theirs = peer.generate(
        torch.tensor(tokens).long(),
        attention_mask=torch.tensor(mask).long(),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
    ).numpy()[:, width:]
    padding = ((0, 0), (0, new - theirs.shape[1]))
    np.testing.assert_array_equal(ours, np.pad(theirs, padding, constant_values=stops[0]))


@pytest.mark.parametrize("name", PEERS)
def test_a_written_folder_is_the_one_read_and_the_peer_reads_it_alike(load, name, tmp_path):
    peer, folder, checkpoint = load(name)
    target = tmp_path / "written"
    write_checkpoint(target, *checkpoint)
    assert {path.name for path in target.iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes(), path.name
    tokens = make_tokens((2, 30))
    again = transformers.AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager")
    np.testing.assert_array_equal(peer_logits(again, tokens), peer_logits(peer, tokens))


SHAPE = {
    "vocab_size": 96,
    "hidden_size": 256,
    "intermediate_size": 56,
    "num_hidden_layers": 5,
    "num_attention_heads": 32,
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_absent_fields_have_the_peers_defaults(kind):
    peer = transformers.AutoConfig.for_model(kind, **SHAPE)
    config = decoder_config({"model_type": kind} | SHAPE, "config.json")

    def theirs(*names, default=None):
        return next((getattr(peer, name) for name in names if hasattr(peer, name)), default)

    window = theirs("sliding_window")
    sliding = [kind == "sliding_attention" for kind in theirs("layer_types", default=())]
    windows = tuple(window if slides else None for slides in sliding or [True] * 5)
    activation = theirs("hidden_activation", "hidden_act")
    expected = {
        "num_key_value_heads": peer.num_key_value_heads,
        "head_size": theirs("head_dim", default=8),
        "max_position_embeddings": peer.max_position_embeddings,
        "initializer_range": peer.initializer_range,
        "norm_eps": theirs("rms_norm_eps", "layer_norm_eps"),
        "rope_theta": peer.rope_parameters["rope_theta"],
        "rope_scaling": {"default": None}[peer.rope_parameters["rope_type"]],
        "partial_rotary_factor": peer.rope_parameters.get("partial_rotary_factor", 1.0),
        # Fixed in the code of these two.
        "attention_bias": theirs("attention_bias", default=kind in ("qwen2", "phi")),
        "mlp_bias": theirs("mlp_bias", default=kind == "phi"),
        "query_scale": theirs("query_pre_attn_scalar"),
        "attn_logit_softcapping": theirs("attn_logit_softcapping"),
        "final_logit_softcapping": theirs("final_logit_softcapping"),
        "layer_windows": windows if any(windows) else None,
        "activation": NAMES[activation],
        "tie_word_embeddings": peer.tie_word_embeddings,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    # A file that spells the defaults out describes the same decoder.
    spelled = json.loads(json.dumps(peer.to_dict()))
    assert decoder_config(spelled, "config.json") == dataclasses.replace(
        config, head_dim=spelled.get("head_dim")
    )


@pytest.mark.parametrize("name", NAMES)
def test_activations_equal_the_peers(name):
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    expected = transformers.activations.ACT2FN[name](torch.tensor(x))
    np.testing.assert_allclose(FUNCTIONS[NAMES[name]](x), expected, atol=1e-6)


THETA = {"rope_type": "default", "rope_theta": 500_000.0}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
SHORT = {"rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0}
FACTORS = (tuple(LONGROPE["short_factor"]), tuple(LONGROPE["long_factor"]))
BESIDE = {"original_max_position_embeddings": 32}
PART = {"partial_rotary_factor": 0.25}


@pytest.mark.parametrize(
    ("kind", "rope", "outer", "scaling"),
    [
        ("llama", THETA, {}, None),
        ("gemma2", LINEAR, {}, Linear(2.0)),
        ("llama", LLAMA3, {}, Llama3(4.0, 1.0, 4.0, 16)),
        ("llama", LLAMA3, BESIDE, Llama3(4.0, 1.0, 4.0, 32)),
        ("qwen2", YARN, {}, Yarn(4.0, 16)),
        ("mistral", SHORT, {}, Yarn(4.0, 64)),
        # Phi-3 has a default of its own, which rules over what the rope fields say.
        ("phi3", LONGROPE, {}, LongRope(*FACTORS, 4096, 1.0)),
        ("phi3", LONGROPE, BESIDE, LongRope(*FACTORS, 32, math.sqrt(1.2))),
        ("phi", THETA | PART, {}, None),
    ],
)
def test_older_and_newer_rope_fields_mean_the_same(kind, rope, outer, scaling):
    shape = SHAPE | {"max_position_embeddings": 64, "model_type": kind} | outer
    newer = decoder_config(shape | {"rope_parameters": rope}, "config.json")
    assert (newer.rope_theta, newer.rope_scaling) == (rope["rope_theta"], scaling)
    beside = {name: rope[name] for name in ("rope_theta", *PART) if name in rope}
    inner = {name: value for name, value in rope.items() if name not in beside}
    older = shape | beside | {"rope_scaling": None if scaling is None else inner}
    assert decoder_config(older, "config.json") == newer
    peer = json.loads(json.dumps(transformers.AutoConfig.for_model(**older).to_dict()))
    assert decoder_config(peer, "config.json").rope_scaling == scaling
    # Older still.
    inner["type"] = inner.pop("rope_type")
    assert decoder_config(older, "config.json") == newer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-2", "phi-1.5"])
def test_third_order_equals_finite_differences(load, name, x64):
    _, _, (config, params, _) = load(name)
    config = dataclasses.replace(config, dtype="float64", param_dtype="float64")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    u, v = (jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params) for _ in "uv")
    tokens = make_tokens((2, 7))

    @jax.jit
    def hvp(p):
        def loss(p):
            logits = forward(config, p, tokens)
            assert logits.dtype == jnp.float64
            return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

        return jax.jvp(jax.grad(loss), (p,), (u,))[1]

    third = jax.jit(lambda p: jax.jvp(hvp, (p,), (v,))[1])(params)
    step = 1e-6
    ahead = hvp(jax.tree.map(lambda x, d: x + step * d, params, v))
    behind = hvp(jax.tree.map(lambda x, d: x - step * d, params, v))
    expected = jax.tree.map(lambda x, y: (x - y) / (2 * step), ahead, behind)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert scale > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * scale), third, expected
    )


@pytest.mark.parametrize("name", ["llama-3.2", "phi-3", "phi-1.5", "gemma-2"])
def test_bfloat16_is_as_close_to_float32_as_the_peers(load, name):
    peer, folder, (config, params, _) = load(name)
    tokens = make_tokens((3, 40))
    half = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.bfloat16
    )
    exact = peer_logits(peer, tokens)
    with torch.no_grad():
        theirs = half(torch.tensor(tokens).long()).logits.float().numpy()
    ours = run(dataclasses.replace(config, dtype="bfloat16"), params, tokens)

    def error(logits):
        return float(np.sqrt(np.mean(np.square(logits - exact)) / np.mean(np.square(exact))))

    assert ours.dtype == jnp.float32
    assert 0 < error(ours) < min(0.1, 1.5 * error(theirs))


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("phi-1.5", {"qk_layernorm": True}, "qk_layernorm = True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ("gemma-2", {"layer_types": "sliding_attention"}, "layer_types"),
    ],
)
def test_what_a_family_has_but_is_not_honoured_is_named(load, name, fields, named):
    _, folder, _ = load(name)
    values = json.loads((folder / "config.json").read_text()) | fields
    with pytest.raises(InputError, match=named):
        decoder_config(values, "config.json")
