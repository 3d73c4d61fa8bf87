"""`ofmu` inside the rest of optax, on any library's parameters; dtypes and shardings kept."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ofmu_jax import bilevel as bl
from tests.bilevel.problems import closures, network, run


def make(**kwargs):
    defaults = {
        "inner": optax.sgd(0.02),
        "outer": optax.adamw(1e-2, weight_decay=0.1),
        "beta": 0.4,
        "rho": 0.05,
        "inner_steps": 2,
    }
    return bl.ofmu(**(defaults | kwargs))


@pytest.fixture
def task(x64):
    params, loss, fb, rb = network()
    return params, closures(loss, fb, rb)


def step(tx, params, losses, updates=None):
    return tx.update(updates, tx.init(params), params, **losses)


def test_chain_clips_the_whole_update(task):
    params, losses = task
    plain, _ = step(make(), params, losses)
    assert optax.tree.norm(plain) > 0.01
    clipped, _ = step(optax.chain(make(), optax.clip_by_global_norm(0.01)), params, losses)
    scaled = optax.tree.scale(0.01 / optax.tree.norm(plain), plain)
    chex.assert_trees_all_close(clipped, scaled, rtol=1e-9)


def test_clipping_and_weight_decay_in_the_outer_optimiser(task):
    params, losses = task
    outer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    updates, _ = step(make(outer=outer, variant="lookahead"), params, losses)
    np.testing.assert_allclose(optax.tree.norm(updates), 1e-3, rtol=1e-9)
    # Decoupled decay acts on the point where the step starts.
    decayed, _ = step(
        make(outer=optax.chain(optax.sgd(1e-2), optax.add_decayed_weights(-0.1))), params, losses
    )
    plain, _ = step(make(outer=optax.sgd(1e-2)), params, losses)
    ascend = bl.maximize_inner(optax.sgd(0.02), 0.4, 2)
    displacement, _ = step(ascend, params, losses)
    y = optax.apply_updates(params, displacement)
    expected = jax.tree.map(lambda u, p: u - 0.1 * p, plain, y)
    chex.assert_trees_all_close(decayed, expected, rtol=1e-9)


def test_masked_leaves_stay_and_the_others_move_as_if_they_were_all(task):
    params, losses = task
    mask = {"hidden": {"w": True, "b": True}, "out": False}
    tx = optax.masked(make(), mask)
    visible = {k: bl.with_frozen(fn, params) for k, fn in losses.items()}
    zeros = optax.tree.zeros_like(params)
    updates, _ = step(tx, params, visible, zeros)
    chex.assert_trees_all_equal(updates["out"], zeros["out"])
    alone = {
        k: lambda h, fn=fn: fn({"hidden": h, "out": params["out"]}) for k, fn in losses.items()
    }
    expected, _ = step(make(), params["hidden"], alone)
    chex.assert_trees_all_close(updates["hidden"], expected, rtol=1e-12)


def test_multisteps_runs_every_kth_call_with_that_call_s_losses(task):
    params, losses = task
    tx = optax.MultiSteps(make(), every_k_schedule=2)
    zeros = optax.tree.zeros_like(params)
    state = tx.init(params)
    first, state = tx.update(zeros, state, params, **losses)
    chex.assert_trees_all_equal(first, zeros)
    second, state = tx.update(zeros, state, params, **losses)
    expected, _ = step(make(), params, losses)
    chex.assert_trees_all_close(second, expected, rtol=1e-9)


def test_multisteps_as_outer_optimiser_accumulates_the_outer_gradient(task):
    params, losses = task
    swapped = {"forget_fn": losses["retain_fn"], "retain_fn": losses["forget_fn"]}
    tx = make(
        outer=optax.MultiSteps(optax.sgd(1.0), every_k_schedule=2).gradient_transformation(),
        variant="lookahead",
    )
    state = tx.init(params)
    first, state = tx.update(None, state, params, **losses)
    chex.assert_trees_all_equal(first, optax.tree.zeros_like(params))
    both, state = tx.update(None, state, params, **swapped)
    one = make(outer=optax.sgd(1.0), variant="lookahead")
    a, _ = step(one, params, losses)
    b, _ = step(one, params, swapped)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    # MultiSteps keeps its running mean with float32 weights.
    chex.assert_trees_all_close(both, mean, rtol=1e-6, atol=1e-9)


def test_inject_hyperparams_takes_numbers_and_schedules(task):
    params, losses = task
    tx = optax.inject_hyperparams(bl.ofmu, static_args=("inner_steps",))(
        inner=optax.sgd(0.02),
        outer=optax.sgd(1e-2),
        beta=0.4,
        rho=bl.geometric(0.05, growth=2.0),
        inner_steps=2,
    )
    state = tx.init(params)
    reference = make(outer=optax.sgd(1e-2), rho=bl.geometric(0.05, growth=2.0))
    reference_state = reference.init(params)
    for rho in (0.05, 0.1):
        updates, state = tx.update(None, state, params, **losses)
        expected, reference_state = reference.update(None, reference_state, params, **losses)
        np.testing.assert_allclose(state.hyperparams["rho"], rho)
        chex.assert_trees_all_close(updates, expected, rtol=1e-9)
    state.hyperparams["beta"] = jnp.asarray(0.0)
    updates, _ = tx.update(None, state, params, **losses)
    expected, _ = make(outer=optax.sgd(1e-2), rho=0.2, beta=0.0).update(
        None, make(outer=optax.sgd(1e-2)).init(params), params, **losses
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="name it in static_args"):
        optax.inject_hyperparams(bl.ofmu)(
            inner=optax.sgd(0.1), outer=optax.sgd(0.1), inner_steps=2
        ).init(params)


def test_beta_schedules_follow_the_outer_step(task):
    params, losses = task
    tx = make(beta=lambda k: jnp.where(k == 0, 0.4, 0.0), outer=optax.sgd(1e-2))
    first, state = step(tx, params, losses)
    chex.assert_trees_all_close(first, step(make(outer=optax.sgd(1e-2)), params, losses)[0])
    second, _ = tx.update(None, state, params, **losses)
    plain, _ = step(make(beta=0.0, outer=optax.sgd(1e-2)), params, losses)
    chex.assert_trees_all_close(second, plain, rtol=1e-9)


def test_state_is_arrays_that_optax_tree_utilities_find(task):
    params, losses = task
    _, state = step(make(), params, losses)
    assert optax.tree.get(state, "notfinite_count") == 0
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


def test_the_initial_state_and_the_next_can_be_donated(task):
    params, losses = task
    for tx, extra in ((make(), losses), (bl.skip_nonfinite(optax.adam(0.1)), {})):
        update = jax.jit(
            lambda s, tx=tx, extra=extra: tx.update(params, s, params, **extra)[1],
            donate_argnums=0,
        )
        assert optax.tree.get(update(update(tx.init(params))), "notfinite_count") == 0


@pytest.mark.parametrize("hvp", bl.HVP_MODES)
@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_states_keep_their_structure_so_that_steps_scan(hvp, variant):
    params, loss, fb, rb = network(dtype=jnp.float32)
    tx = make(hvp=hvp, variant=variant)
    end, state, diagnostics = run(tx, params, 3, **closures(loss, fb, rb))
    chex.assert_trees_all_equal_structs(state, tx.init(params))
    chex.assert_trees_all_equal_dtypes(state, tx.init(params))
    chex.assert_tree_all_finite((end, diagnostics))
    assert diagnostics.forget_loss.shape == (3,)


@pytest.mark.parametrize("variant", bl.VARIANTS)
def test_dtypes_of_mixed_precision_leaves_are_kept(variant):
    params, loss, fb, rb = network(dtype=jnp.float32)
    params["out"] = params["out"].astype(jnp.bfloat16)
    losses = closures(lambda p, b: loss(p, b).astype(jnp.float32), fb, rb)
    for hvp in bl.HVP_MODES:
        tx = make(variant=variant, hvp=hvp)
        updates, state = jax.jit(lambda p, tx=tx: tx.update(None, tx.init(p), p, **losses))(params)
        chex.assert_trees_all_equal_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes(updates, params)
        assert state.diagnostics.cosine.dtype == jnp.float32
        chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("hvp", bl.HVP_MODES)
def test_shardings_of_leaves_are_kept_and_the_numbers_with_them(hvp):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    params, loss, fb, rb = network(dtype=jnp.float32)
    params["hidden"]["w"] = jnp.tile(params["hidden"]["w"], (1, 4)) / 2
    params["hidden"]["b"] = jnp.tile(params["hidden"]["b"], 4)
    params["out"] = jnp.tile(params["out"], (4, 1)) / 2
    specs = {
        "hidden": {"w": PartitionSpec("fsdp", "tensor"), "b": PartitionSpec("tensor")},
        "out": PartitionSpec(("fsdp", "tensor"), None),
    }
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
    losses = closures(loss, fb, rb)
    tx = make(hvp=hvp)

    def one(p):
        updates, state = tx.update(None, tx.init(p), p, **losses)
        return updates, state.outer[0].mu, state.diagnostics

    expected = jax.jit(one)(params)
    sharded = jax.device_put(params, shardings)
    updates, mu, diagnostics = jax.jit(one)(sharded)
    for tree in (updates, mu):
        for got, want in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True):
            assert got.sharding.is_equivalent_to(want, got.ndim), (got.sharding, want)
    # A difference of float32 gradients over a small step amplifies rounding.
    rtol = 1e-4 if hvp == "exact" else 2e-2
    chex.assert_trees_all_close(mu, expected[1], rtol=rtol, atol=rtol * 1e-3)
    chex.assert_trees_all_close(diagnostics, expected[2], rtol=rtol)


def test_parameters_of_linen_and_nnx_and_a_bare_array():
    x = jax.random.normal(jax.random.key(0), (8, 4))
    labels = jax.nn.one_hot(jnp.arange(8) % 3, 3)

    def cross_entropy(logits):
        return optax.softmax_cross_entropy(logits, labels).mean()

    linen = nn.Dense(3)
    variables = linen.init(jax.random.key(1), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    graph, nnx_state = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    nnx_state["kernel"] = nnx_state["kernel"].replace(kernel)
    nnx_state["bias"] = nnx_state["bias"].replace(bias)
    cases = {
        "linen": (variables, lambda p, x: cross_entropy(linen.apply(p, x))),
        "nnx": (nnx_state, lambda p, x: cross_entropy(nnx.merge(graph, p)(x))),
        "array": (
            jnp.concatenate([kernel, bias[None]]),
            lambda p, x: cross_entropy(x @ p[:-1] + p[-1]),
        ),
    }
    tx = make(outer=optax.sgd(0.1))
    totals = {}
    for name, (params, loss) in cases.items():
        losses = closures(loss, x[:4].repeat(2, axis=0), x)
        updates, state = jax.jit(lambda p, k=losses: tx.update(None, tx.init(p), p, **k))(params)
        chex.assert_trees_all_equal_structs(updates, params)
        totals[name] = (float(optax.tree.norm(updates)), float(state.diagnostics.curvature))
    np.testing.assert_allclose(totals["nnx"], totals["linen"], rtol=1e-4)
    np.testing.assert_allclose(totals["array"], totals["linen"], rtol=1e-4)
