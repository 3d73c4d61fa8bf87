import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from ofmu_jax import ofmu
from ofmu_jax.errors import InputError
from ofmu_jax.models import (
    Lora,
    apply_lora,
    init_lora,
)
from tests.models.adapters import (
    ALL,
    ATTENTION,
    CONFIG,
    MLP,
    TOKENS,
    assert_trees_close,
    make_adapters,
    make_params,
    merge,
    names,
    run,
)

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
