import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from safetensors.numpy import load_file, save_file

from ofmu_jax import ofmu
from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    DecoderConfig,
    Lora,
    apply_lora,
    forward,
    init_lora,
    read_adapter,
    read_checkpoint,
    write_adapter,
)
from ofmu_jax.models.families import FAMILIES
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


# Reparametrisation.


def test_fresh_adapters_change_no_logit():
    params = make_params()
    adapters = init_lora(params, ALL, jax.random.key(1))
    merged = merge(params, adapters, ALL.scale)
    np.testing.assert_array_equal(run(CONFIG, merged, TOKENS), run(CONFIG, params, TOKENS))


def test_fresh_adapters_are_drawn_as_peft_does():
    params = make_params()
    adapters = init_lora(params, Lora(rank=40), jax.random.key(1))["layers"]
    assert adapters["mlp"]["up_proj"]["a"].shape == (3, 16, 40)
    assert adapters["mlp"]["up_proj"]["b"].shape == (3, 40, 24)
    assert adapters["self_attn"]["q_proj"]["b"].shape == (3, 40, 24)
    assert adapters["self_attn"]["o_proj"]["a"].shape == (3, 24, 40)
    for module, inputs in (("up_proj", 16), ("gate_proj", 16), ("down_proj", 24)):
        a, b = adapters["mlp"][module]["a"], adapters["mlp"][module]["b"]
        assert a.dtype == b.dtype == jnp.float32
        assert not b.any()
        assert 0.95 * inputs**-0.5 < jnp.max(jnp.abs(a)) <= inputs**-0.5
        assert abs(jnp.mean(a)) < 0.05 * inputs**-0.5 * 3**0.5
    assert not np.allclose(adapters["mlp"]["up_proj"]["a"], adapters["mlp"]["gate_proj"]["a"])
    again = init_lora(jax.eval_shape(lambda: params), Lora(rank=40), jax.random.key(1))
    assert_trees_close(again["layers"], adapters, rtol=0)


def test_the_product_is_added_to_heads_and_plain_matrices_alike():
    params = make_params()
    lora = Lora(rank=2, alpha=3.0, targets=("q_proj", "o_proj", "down_proj"))
    adapters = make_adapters(params, lora)
    merged = apply_lora(params, adapters, lora.scale)
    before, after, added = (tree["layers"] for tree in (params, merged, adapters))
    for part, name, equation, shape_a, shape_b in [
        ("self_attn", "q_proj", "ir,rhd->ihd", (16, 2), (2, 4, 6)),
        ("self_attn", "o_proj", "hdr,re->hde", (4, 6, 2), (2, 16)),
        ("mlp", "down_proj", "ir,ro->io", (24, 2), (2, 16)),
    ]:
        for layer in range(3):
            a, b = (np.asarray(added[part][name][half][layer]) for half in "ab")
            product = np.einsum(equation, a.reshape(shape_a), b.reshape(shape_b))
            expected = before[part][name][layer] + 3.0 / 2 * product
            np.testing.assert_allclose(after[part][name][layer], expected, rtol=1e-5, atol=1e-6)


def test_other_parameters_are_the_same_arrays():
    params = make_params()
    lora = Lora(targets=("q_proj",))
    merged = apply_lora(params, make_adapters(params, lora), lora.scale)
    same = jax.tree.map(lambda x, y: x is y, merged, params)
    assert not same["layers"]["self_attn"].pop("q_proj")
    assert jax.tree.all(same)


def test_the_storage_type_is_kept():
    params = make_params(dataclasses.replace(CONFIG, param_dtype="bfloat16"))
    adapters = make_adapters(params)
    merged = apply_lora(params, adapters, ALL.scale)
    assert {x.dtype.name for x in jax.tree.leaves(merged)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(adapters)} == {"float32"}
    wide = apply_lora(jax.tree.map(lambda x: x.astype(jnp.float32), params), adapters, ALL.scale)
    # One rounding, of the sum.
    rounded = jax.tree.map(lambda x: np.asarray(x.astype(jnp.bfloat16), np.float32), wide)
    assert_trees_close(jax.tree.map(lambda x: np.asarray(x, np.float32), merged), rounded, rtol=0)


# Targets.

ATTENTION = [f"layers.self_attn.{name}_proj" for name in "koqv"]
MLP = [f"layers.mlp.{name}_proj" for name in ("down", "gate", "up")]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("q_proj",), ["layers.self_attn.q_proj"]),
        (("*_proj",), MLP + ATTENTION),
        (("layers.mlp.*",), MLP),
        (("layers.self_attn.[qv]_proj", "v_proj"), ATTENTION[2:]),
        (("up_proj", "k_proj", "*mlp.down*"), [MLP[0], MLP[2], ATTENTION[0]]),
    ],
)
def test_patterns_choose_matrices_by_name_or_path(patterns, expected):
    shapes = jax.eval_shape(make_params)
    assert names(init_lora(shapes, Lora(targets=patterns), jax.random.key(0))) == expected


@pytest.mark.parametrize("pattern", ["w_q", "embed_tokens", "lm_head", "*.weight", "Q_PROJ", "q"])
def test_a_pattern_that_matches_no_matrix_is_an_error_that_lists_them(pattern):
    shapes = jax.eval_shape(make_params)
    with pytest.raises(InputError) as caught:
        init_lora(shapes, Lora(targets=("q_proj", pattern)), jax.random.key(0))
    assert repr(pattern) in str(caught.value)
    assert str(caught.value).endswith(", ".join(MLP + ATTENTION))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"targets": ()}, "targets are empty"),
    ],
)
def test_values_out_of_range_are_named(values, named):
    with pytest.raises(InputError, match=named):
        Lora(**values)


# Derivatives.


# A small network of the decoder's matrices, of two layers side by side, two heads of four.
FEW = Lora(rank=2, alpha=3.0, targets=("q_proj", "o_proj", "down_proj"))
SHAPES = {
    "self_attn": {"q_proj": (2, 8, 2, 4), "o_proj": (2, 2, 4, 8)},
    "mlp": {"up_proj": (2, 8, 5), "down_proj": (2, 5, 8)},
}


def make_network():
    """Its matrices and adapters, in float64."""
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float64)
    base = {"layers": jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))}
    return base, jax.tree.map(lambda x: x.astype(jnp.float64), make_adapters(base, FEW))


def network_loss(params, x):
    attention, mlp = params["layers"]["self_attn"], params["layers"]["mlp"]
    heads = jnp.tanh(jnp.einsum("ni,lihd->lnhd", x, attention["q_proj"]))
    x = x + jnp.einsum("lnhd,lhde->lne", heads, attention["o_proj"])
    x = x + jnp.tanh(x @ mlp["up_proj"]) @ mlp["down_proj"]
    return jnp.mean(jax.nn.log_softmax(x)[..., 0])


def by_hand(base, adapters):
    """What `apply_lora` should be, for FEW in the network."""
    attention, mlp = adapters["layers"]["self_attn"], adapters["layers"]["mlp"]
    q, o, down = attention["q_proj"], attention["o_proj"], mlp["down_proj"]
    layers = {name: dict(inner) for name, inner in base["layers"].items()}
    layers["self_attn"]["q_proj"] += 1.5 * jnp.einsum(
        "lir,lrhd->lihd", q["a"], q["b"].reshape(2, 2, 2, 4)
    )
    layers["self_attn"]["o_proj"] += 1.5 * jnp.einsum(
        "lhdr,lre->lhde", o["a"].reshape(2, 2, 4, 2), o["b"]
    )
    layers["mlp"]["down_proj"] += 1.5 * jnp.einsum("lir,lro->lio", down["a"], down["b"])
    return {"layers": layers}


FORGET, RETAIN = np.random.default_rng(1).normal(size=(2, 6, 8))


def losses(full):
    return {
        "forget_fn": lambda y: network_loss(full(y), FORGET),
        "retain_fn": lambda y: -network_loss(full(y), RETAIN),
    }


def test_at_first_the_gradient_is_that_of_the_matrix_through_a_and_none_for_a(x64):
    base, _ = make_network()
    adapters = init_lora(base, FEW, jax.random.key(1))
    loss = lambda y: network_loss(apply_lora(base, y, FEW.scale), FORGET)
    gradients = jax.jit(jax.grad(loss))(adapters)["layers"]
    of_matrices = jax.jit(jax.grad(network_loss))(base, FORGET)["layers"]
    for part, modules in adapters["layers"].items():
        for name, adapter in modules.items():
            assert not gradients[part][name]["a"].any()
            matrix = np.asarray(of_matrices[part][name]).reshape(2, adapter["a"].shape[1], -1)
            expected = 1.5 * np.einsum("lir,lio->lro", adapter["a"], matrix)
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(gradients[part][name]["b"], expected, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def manual():
    """Gradients of Phi (beta 0.5) and of the retain loss by flat adapters, `apply_lora` unused."""
    with jax.enable_x64(True):
        base, adapters = make_network()
        flat, restore = ravel_pytree(adapters)
        forget, retain = losses(lambda y: by_hand(base, restore(y))).values()

        def phi(y):
            f, r = jax.grad(forget)(y), jax.grad(retain)(y)
            return forget(y) - 0.5 * f @ r / (jnp.linalg.norm(f) * jnp.linalg.norm(r))

        yield flat, jax.jit(jax.grad(phi)), jax.jit(jax.grad(retain))


@pytest.mark.parametrize("variant", ["endpoint", "lookahead", "anchor"])
def test_a_step_of_ofmu_on_adapters_is_that_of_the_reparametrised_loss(x64, manual, variant):
    base, adapters = make_network()
    method = ofmu(optax.sgd(0.1), optax.sgd(0.3), beta=0.5, rho=0.2, inner_steps=2, variant=variant)

    @jax.jit
    def step(x, base):
        fns = losses(lambda y: apply_lora(base, y, FEW.scale))
        return method.update(None, method.init(x), x, **fns)[0]

    # The base is an argument, and so no constant of the program.
    kept = jax.tree.map(np.array, base)
    updates = step(adapters, base)
    assert_trees_close(base, kept, rtol=0)
    assert names(updates) == ["layers.mlp.down_proj", *ATTENTION[1:3]]
    for update in jax.tree.leaves(updates):
        assert np.isfinite(update).all()
        assert np.abs(update).max() > 1e-3

    flat, phi_gradient, retain_gradient = manual
    y = flat
    for _ in range(2):
        y = y + 0.1 * phi_gradient(y)
    point, start = (flat if variant == "anchor" else y), (y if variant == "endpoint" else flat)
    # The Hessian of Phi, and with it a third derivative of the losses, by central differences.
    along, width = phi_gradient(point), 1e-4
    ahead, behind = (phi_gradient(point + sign * width * along) for sign in (1, -1))
    penalty = 2 * 0.2 * (ahead - behind) / (2 * width)
    assert np.abs(penalty).max() > 1e-2
    expected = start - 0.3 * (retain_gradient(point) + penalty) - flat
    np.testing.assert_allclose(ravel_pytree(updates)[0], expected, rtol=1e-5, atol=1e-7)


# Files.


def delta(folder, module):
    """What PEFT adds to a stored matrix, from the files alone."""
    values = json.loads((folder / CONFIG_FILE).read_text())
    tensors = load_file(folder / MODEL)
    a, b = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
    assert a.shape[0] == b.shape[1] == values["r"]
    return values["lora_alpha"] / values["r"] * b @ a


def added(adapters, path, layer):
    """The same for a matrix of ours, its outputs first."""
    node = functools.reduce(lambda tree, key: tree[key], path.split("."), adapters["layers"])
    return ALL.scale * (np.asarray(node["a"][layer]) @ np.asarray(node["b"][layer])).T


def test_files_hold_the_product_of_each_matrix(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL, base="some/model")
    values = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (values["r"], values["lora_alpha"]) == (2, 3.0)
    assert values["base_model_name_or_path"] == "some/model"
    assert values["target_modules"] == [name.removeprefix("layers.") for name in MLP + ATTENTION]
    assert len(load_file(tmp_path / MODEL)) == 2 * 3 * 7
    for path in values["target_modules"]:
        for layer in range(3):
            found = delta(tmp_path, f"model.layers.{layer}.{path}")
            np.testing.assert_allclose(found, added(adapters, path, layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "rank"),
    [(("*_proj",), 6), (("k_proj", "up_proj"), 2), (("q_proj", "v_proj", "down_proj"), 4)],
)
def test_files_of_fused_matrices_hold_the_stacked_product(tmp_path, targets, rank):
    lora = dataclasses.replace(ALL, targets=targets)
    adapters = make_adapters(make_params(), lora)
    write_adapter(tmp_path, CONFIG, FAMILIES["phi3"], adapters, lora)
    values = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (values["r"], values["lora_alpha"]) == (rank, 1.5 * rank)
    parts = {
        "self_attn.qkv_proj": {"q_proj": 24, "k_proj": 12, "v_proj": 12},
        "mlp.gate_up_proj": {"gate_proj": 24, "up_proj": 24},
        "mlp.down_proj": {"down_proj": 16},
        "self_attn.o_proj": {"o_proj": 16},
    }
    adapted = {name.split(".")[-1] for name in names(adapters)}
    assert values["target_modules"] == sorted(x for x in parts if adapted & parts[x].keys())
    for module in values["target_modules"]:
        group = module.split(".")[0]
        for layer in range(3):
            found = delta(tmp_path, f"model.layers.{layer}.{module}")
            expected = [
                added(adapters, f"{group}.{name}", layer)
                if name in adapted
                else np.zeros((rows, found.shape[1]))
                for name, rows in parts[module].items()
            ]
            np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", [("*_proj",), ("q_proj",), ("layers.mlp.*", "v_proj")])
@pytest.mark.parametrize("family", ["llama", "phi3", "phi"])
def test_what_is_written_reads_back_as_the_same_parameters(tmp_path, family, targets):
    config = dataclasses.replace(CONFIG, gated_mlp=family != "phi")
    params = make_params(config)
    lora = dataclasses.replace(ALL, targets=targets)
    adapters = make_adapters(params, lora)
    write_adapter(tmp_path, config, FAMILIES[family], adapters, lora)
    back, read = read_adapter(tmp_path, config, FAMILIES[family])
    assert read.scale == lora.scale
    assert_trees_close(
        merge(params, back, read.scale), merge(params, adapters, lora.scale), rtol=1e-5, atol=1e-6
    )
    if family != "phi3":
        assert (read.rank, read.alpha) == (2, 3.0)
        assert list(read.targets) == names(adapters)
        assert_trees_close(back, adapters, rtol=0)
    # What is read is as good a start as any.
    assert names(init_lora(params, read, jax.random.key(0))) == names(back)


def test_files_in_bfloat16_are_read_into_float32(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL)
    narrow = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(tmp_path / MODEL).items()}
    save_file(narrow, tmp_path / MODEL)
    back, _ = read_adapter(tmp_path, CONFIG, FAMILIES["llama"])
    assert {x.dtype.name for x in jax.tree.leaves(back)} == {"float32"}
    assert_trees_close(back, adapters, rtol=2**-8)


def test_rank_stabilised_scaling_is_by_the_root_of_the_rank(tmp_path):
    adapters = make_adapters(make_params())
    write_adapter(tmp_path, CONFIG, FAMILIES["llama"], adapters, ALL)
    configure(use_rslora=True)(tmp_path)
    _, read = read_adapter(tmp_path, CONFIG, FAMILIES["llama"])
    assert read.rank == 2
    assert read.scale == pytest.approx(3.0 / 2**0.5)


def configure(**changes):
    """Edits an adapter's options."""

    def edit(folder):
        path = folder / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(change):
    """Edits an adapter's tensors, in place."""

    def edit(folder):
        tensors = load_file(folder / MODEL)
        change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / MODEL)

    return edit


def truncate(folder):
    contents = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(contents[: len(contents) // 2])


def remove_config_values(*keys):
    def edit(folder):
        values = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(
            json.dumps({k: v for k, v in values.items() if k not in keys})
        )

    return edit


Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
HEAD = "base_model.model.lm_head.lora_{}.weight"


def drop(*keys):
    return edit_tensors(lambda tensors: [tensors.pop(key) for key in keys])


def put(**values):
    """Replaces halves of the first layer's query projection."""
    return edit_tensors(
        lambda tensors: tensors.update({Q.format(0, k): v for k, v in values.items()})
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An adapter of the query and output projections, to be spoilt in copies."""
    folder = tmp_path_factory.mktemp("adapter")
    lora = Lora(rank=2, targets=("q_proj", "o_proj"))
    adapters = make_adapters(jax.eval_shape(make_params), lora)
    write_adapter(folder, CONFIG, FAMILIES["llama"], adapters, lora)
    return folder


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / MODEL).unlink(), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "cannot be read"),
        (shutil.rmtree, "cannot be read"),
        (truncate, "cannot be read"),
        (lambda folder: (folder / MODEL).write_bytes(b"x" * 40), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
        (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "peft_type"),
        (configure(peft_type="IA3"), "peft_type"),
        (remove_config_values("peft_type"), "peft_type"),
        (remove_config_values("r"), "r = None"),
        (remove_config_values("lora_alpha"), "lora_alpha = None"),
        (configure(r=0), "r = 0"),
        (configure(r="2"), "r = '2'"),
        (configure(lora_alpha=-1), "lora_alpha = -1"),
        (configure(use_dora=True), "use_dora = True"),
        (configure(bias="all"), "bias = 'all'"),
        (configure(modules_to_save=["lm_head"]), "modules_to_save"),
        (configure(fan_in_fan_out=True), "fan_in_fan_out"),
        (configure(lora_bias=True), "lora_bias"),
        (configure(rank_pattern={"q_proj": 4}), "rank_pattern"),
        (configure(alpha_pattern={"q_proj": 4}), "alpha_pattern"),
        (configure(layers_to_transform=[0]), "layers_to_transform"),
        (configure(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
        (configure(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (configure(r=3), r"expected \(3, 24\) and \(16, 3\)"),
        (put(A=np.zeros((16, 2), np.float32)), r"layers.0.self_attn.q_proj has shapes \(16, 2\)"),
        (put(B=np.zeros((2, 24), np.float32)), r"expected \(2, 16\) and \(24, 2\)"),
        (put(B=np.zeros(24, np.float32)), "has shapes"),
        (put(A=np.full((2, 16), np.nan, np.float32)), "NaN or infinite"),
        (put(B=np.full((24, 2), np.inf, np.float32)), "NaN or infinite"),
        (put(C=np.zeros((2, 16), np.float32)), "q_proj.lora_C.weight belongs to no matrix"),
        (
            edit_tensors(lambda x: x.update({Q.format(3, "A"): x[Q.format(0, "A")]})),
            "layers.3.self_attn.q_proj.lora_A.weight belongs to no matrix",
        ),
        (
            edit_tensors(
                lambda x: x.update(
                    {HEAD.format(k): x[Q.format(0, "A")][:, :1].repeat(16, 1) for k in "AB"}
                )
            ),
            "lm_head.lora_A.weight belongs to no matrix",
        ),
        (drop(Q.format(1, "A"), Q.format(1, "B")), "q_proj is not adapted in every layer"),
        (drop(Q.format(1, "A")), "layers.1.self_attn.q_proj.lora_A.weight is missing"),
        (drop(*(Q.format(i, "B") for i in range(3))), "q_proj.lora_B.weight is missing"),
        (edit_tensors(lambda tensors: tensors.clear()), "no adapter"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, written, spoil, named):
    folder = tmp_path / "adapter"
    shutil.copytree(written, folder)
    read_adapter(folder, CONFIG, FAMILIES["llama"])
    spoil(folder)
    with pytest.raises(InputError, match=named) as caught:
        read_adapter(folder, CONFIG, FAMILIES["llama"])
    assert str(folder) in str(caught.value)


def test_an_adapter_of_the_head_of_a_single_layer_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, num_hidden_layers=1)
    lora = dataclasses.replace(ALL, targets=("q_proj",))
    adapters = make_adapters(make_params(config), lora)
    write_adapter(tmp_path, config, FAMILIES["llama"], adapters, lora)
    head = {
        HEAD.format("A"): np.zeros((2, 16), np.float32),
        HEAD.format("B"): np.zeros((19, 2), np.float32),
    }
    edit_tensors(lambda tensors: tensors.update(head))(tmp_path)
    with pytest.raises(InputError, match="lm_head.lora_A.weight belongs to no matrix"):
        read_adapter(tmp_path, config, FAMILIES["llama"])


# PEFT, the peer.


@functools.cache
def saved(name, root):
    """A peer's folder and checkpoint."""
    from tests.models import peers

    folder = root / name
    peers.make(name, folder)
    return folder, read_checkpoint(folder)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    pytest.importorskip("peft", reason="needs the peer extra: pip install '.[peer]'")
    return functools.partial(saved, root=tmp_path_factory.mktemp("peers"))


def family_of(folder):
    return FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]


def peer_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def assert_logits_agree(model, config, params):
    np.testing.assert_allclose(
        run(config, params, TOKENS), peer_logits(model, TOKENS), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama-3", ("*_proj",)),
        ("llama-3", ("o_proj", "gate_proj")),
        ("phi-3", ("*_proj",)),
        ("phi-3", ("k_proj", "up_proj", "o_proj")),
        ("phi-1.5", ("*_proj",)),
        ("gemma-2", ("*_proj",)),
        ("qwen3", ("*_proj",)),
    ],
)
def test_peft_runs_what_is_written(tmp_path, peer, name, targets):
    import peft
    import transformers

    source, (config, params, _) = peer(name)
    lora = Lora(rank=2, alpha=3.0, targets=targets)
    adapters = make_adapters(params, lora)
    write_adapter(tmp_path, config, family_of(source), adapters, lora, base=str(source))
    base = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    before = peer_logits(base, TOKENS)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    loaded = peft.set_peft_model_state_dict(model, peft.load_peft_weights(tmp_path))
    assert not loaded.unexpected_keys
    assert not [key for key in loaded.missing_keys if "lora_" in key]
    assert np.abs(peer_logits(model, TOKENS) - before).max() > 0.1
    assert_logits_agree(model, config, merge(params, adapters, lora.scale))

    back, read = read_adapter(tmp_path, config, family_of(source))
    assert_trees_close(
        merge(params, back, read.scale), merge(params, adapters, lora.scale), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "targets", "options"),
    [
        ("llama-3", ["q_proj", "o_proj", "down_proj"], {}),
        ("llama-3", ["q_proj", "up_proj"], {"use_rslora": True}),
        ("phi-3", ["qkv_proj", "o_proj", "gate_up_proj"], {"init_lora_weights": "gaussian"}),
        ("phi-1.5", ["dense", "fc1", "k_proj"], {"use_rslora": True}),
        ("gemma-2", "all-linear", {}),
    ],
)
def test_what_peft_writes_is_read(tmp_path, peer, name, targets, options):
    import peft
    import torch
    import transformers

    source, (config, params, _) = peer(name)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    before = peer_logits(base, TOKENS)
    torch.manual_seed(0)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options)
    ).eval()
    for key, value in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(tmp_path)
    adapters, lora = read_adapter(tmp_path, config, family_of(source))
    assert lora.rank == 3
    assert lora.scale == pytest.approx(5 / 3**0.5 if "use_rslora" in options else 5 / 3)
    assert np.abs(peer_logits(model, TOKENS) - before).max() > 0.1
    assert_logits_agree(model, config, merge(params, adapters, lora.scale))
