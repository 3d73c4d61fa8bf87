"""Every rule against its reference, its property, and the places where it could break."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.experimental import aggregating

from ofmu_jax import aggregators
from ofmu_jax.aggregators import UPDATE_RULES
from tests.aggregators.reference import RULES

SHAPES = {"w": (3, 4), "deep": [(5,), ()]}
SIZE = 18


def stack(r, f):
    """Two flat vectors as stacked trees."""
    both, start = np.stack([r, f]), 0
    leaves, structure = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    stacked = []
    for shape in leaves:
        size = int(np.prod(shape))
        stacked.append(jnp.asarray(both[:, start : start + size].reshape(2, *shape)))
        start += size
    assert start == SIZE
    return jax.tree.unflatten(structure, stacked)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def apply(rule, r, f):
    """A rule on flat vectors, in float64."""
    with jax.enable_x64(True):
        grads = stack(r, f)
        d, _ = rule.update(grads, rule.init(jax.tree.map(lambda g: g[0], grads)))
        chex.assert_trees_all_equal_shapes_and_dtypes(d, jax.tree.map(lambda g: g[0], grads))
        return flat(d)


def pair(seed, angle, retain_norm, forget_norm):
    """Two random vectors at an angle."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(SIZE, 2)))
    r, f = basis @ [1, 0], basis @ [np.cos(angle), np.sin(angle)]
    return retain_norm * r, forget_norm * f


norm = st.floats(-3, 3).map(lambda x: 10**x)
pairs = st.builds(pair, st.integers(0, 2**32 - 1), st.floats(0.01, np.pi - 0.01), norm, norm)


def test_the_two_lists_of_rules_are_one():
    assert set(RULES) == set(UPDATE_RULES)


@pytest.mark.parametrize("name", RULES)
@given(gs=pairs)
def test_a_rule_is_its_reference(name, gs):
    got, want = apply(UPDATE_RULES[name](), *gs), RULES[name](*gs)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=3e-4 * np.linalg.norm(want))
    # The guards are felt only where a rule divides by what almost vanishes.
    r, f = (g / np.linalg.norm(g) for g in gs)
    if 1 + r @ f > 0.1:
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7 * np.linalg.norm(want))


@given(gs=pairs, weights=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_the_weights_of_the_sum_are_in_the_order_of_the_objectives(gs, weights):
    got = apply(aggregators.weighted_sum(*weights), *gs)
    want = weights[0] * gs[0] + weights[1] * gs[1]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.max(np.abs(gs)))


@given(gs=pairs)
def test_projections_never_conflict_with_the_retain_gradient(gs):
    r, f = gs
    for rule in (aggregators.pcgrad(), aggregators.projection()):
        d = apply(rule, r, f)
        assert d @ r >= -1e-9 * np.linalg.norm(d) * np.linalg.norm(r)
    # What projection adds to the retain gradient does not conflict with it either.
    d = apply(aggregators.projection(), r, f) - r
    assert d @ r >= -1e-12 * np.linalg.norm(f) * np.linalg.norm(r)
    d = apply(aggregators.pcgrad(), r, f)
    assert d @ f >= -1e-9 * np.linalg.norm(d) * np.linalg.norm(f)


def test_a_small_retain_gradient_is_protected_as_well():
    r, f = pair(0, 2.5, 1e-7, 1.0)
    for rule in (aggregators.pcgrad(), aggregators.projection()):
        assert apply(rule, r, f) @ r >= 0.1 * (r @ r)


@given(gs=pairs)
def test_mgda_is_the_shortest_and_descends_both(gs):
    r, f = gs
    d = apply(aggregators.mgda(), r, f)
    slack = 1e-9 * max(r @ r, f @ f)
    assert d @ r >= d @ d - slack and d @ f >= d @ d - slack
    a = np.linspace(0, 1, 2001)[:, None]
    grid = np.linalg.norm(a * r + (1 - a) * f, axis=1)
    spacing = np.linalg.norm(r - f) / 2000
    assert grid.min() - spacing <= np.linalg.norm(d) <= grid.min() + np.sqrt(slack)


@given(gs=pairs, scales=st.tuples(norm, norm))
def test_normalised_rules_do_not_feel_scale(gs, scales):
    for rule in (aggregators.munba(), aggregators.ngdiff()):
        got = apply(rule, gs[0] * scales[0], gs[1] * scales[1])
        np.testing.assert_allclose(got, apply(rule, *gs), rtol=1e-3, atol=1e-4)


@given(gs=pairs)
def test_munba_gives_both_players_the_bargain(gs):
    d = apply(aggregators.munba(), *gs)
    weights, *_ = np.linalg.lstsq(np.stack(gs, axis=1), d, rcond=None)
    shares = [weight * (d @ g) for weight, g in zip(weights, gs, strict=True)]
    np.testing.assert_allclose(shares, 1, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(d), np.sqrt(2), rtol=1e-3)


@given(gs=pairs, gamma=st.floats(0.1, 10))
def test_blur_forgets_at_its_pace(gs, gamma):
    r, f = gs
    d = apply(aggregators.blur(gamma), r, f)
    slack = 1e-9 * np.linalg.norm(f) * (np.linalg.norm(r) + np.linalg.norm(f))
    np.testing.assert_allclose(d @ f, gamma * (f @ f), rtol=1e-6, atol=slack)
    # A weight of the forget loss before the rule is its gamma.
    weighted = apply(aggregators.blur(), r, gamma * f)
    np.testing.assert_allclose(weighted, d, rtol=1e-6, atol=1e-6 * np.linalg.norm(d))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", UPDATE_RULES)
def test_vanishing_equal_and_opposed_gradients_give_finite_results(name, dtype):
    g, zero = np.arange(1.0, SIZE + 1) / 7, np.zeros(SIZE)
    rule = UPDATE_RULES[name]()
    for r, f in ((zero, zero), (zero, g), (g, zero), (g, g), (g, -g), (-3 * g, g), (1e-12 * g, g)):
        d, _ = rule.update(jax.tree.map(lambda x: x.astype(dtype), stack(r, f)), rule.init(None))
        chex.assert_tree_all_finite(d)
        # Normalised rules give a unit vector for each gradient, the others no more than is there.
        bound = 2.1 * max(np.linalg.norm(r), np.linalg.norm(f), 1)
        assert np.linalg.norm(flat(d).astype(float)) <= bound


@pytest.mark.parametrize("name", ["ngdiff", "munba"])
def test_a_vanishing_gradient_leaves_the_other_s_direction(name):
    g = np.arange(1.0, SIZE + 1)
    unit = g / np.linalg.norm(g)
    rule = UPDATE_RULES[name]()
    np.testing.assert_allclose(apply(rule, g, 0 * g), unit, rtol=1e-6)
    np.testing.assert_allclose(apply(rule, 0 * g, g), unit, rtol=1e-6)


def test_leaves_keep_their_dtypes_and_products_are_float32():
    # In bfloat16 a sum of ones ends at 256; in float16 a square of 300 overflows.
    grads = {"b": jnp.ones((2, 10_000), jnp.bfloat16), "h": jnp.full((2, 4), 300, jnp.float16)}
    rule = aggregators.ngdiff()
    d, _ = rule.update(grads, rule.init(None))
    chex.assert_trees_all_equal_dtypes(d, jax.tree.map(lambda g: g[0], grads))
    length = np.sqrt(10_000 + 4 * 300**2)
    np.testing.assert_allclose(d["b"].astype(float), 2 / length, rtol=5e-3)
    np.testing.assert_allclose(d["h"].astype(float), 600 / length, rtol=1e-3)
    # The sum too is rounded once, at its end; the terms in bfloat16 would differ by 1/64.
    rule = aggregators.weighted_sum(1 / 3, -1 / 3)
    d, _ = rule.update(jnp.array([[10.0], [9.9375]], jnp.bfloat16), rule.init(None))
    np.testing.assert_allclose(d.astype(float), 0.0625 / 3, rtol=5e-3)


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_a_rule_jits_without_transfers_and_maps(name):
    rng = np.random.default_rng(0)
    rule = UPDATE_RULES[name]()
    many = [stack(*rng.normal(size=(2, SIZE))) for _ in range(3)]
    one = jax.jit(lambda grads: rule.update(grads, rule.init(None))[0])
    one(many[0])
    with jax.transfer_guard("disallow"):
        results = [one(grads) for grads in many]
    eager = [rule.update(grads, rule.init(None))[0] for grads in many]
    chex.assert_trees_all_close(results, eager, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(one)(jax.tree.map(lambda *gs: jnp.stack(gs), *many))
    for k, want in enumerate(eager):
        got = jax.tree.map(lambda x, k=k: x[k], mapped)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_shardings_are_kept_and_the_numbers_with_them(name):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rng = np.random.default_rng(1)
    grads = {
        "w": jnp.asarray(rng.normal(size=(2, 8, 6)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(2, 8)), jnp.float32),
        "s": jnp.asarray(rng.normal(size=(2,)), jnp.float32),
    }
    specs = {"w": ("fsdp", "tensor"), "b": (("fsdp", "tensor"),), "s": ()}
    placed = {
        k: jax.device_put(g, NamedSharding(mesh, PartitionSpec(None, *specs[k])))
        for k, g in grads.items()
    }
    rule = UPDATE_RULES[name]()
    one = jax.jit(lambda grads: rule.update(grads, rule.init(None))[0])
    got, want = one(placed), one(grads)
    for k, d in got.items():
        sharding = NamedSharding(mesh, PartitionSpec(*specs[k]))
        assert d.sharding.is_equivalent_to(sharding, d.ndim), (k, d.sharding)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-5, atol=1e-6)


def test_optax_s_process_puts_an_optimizer_behind_a_rule():
    tx = aggregating.process(optax.identity(), aggregators.projection(), optax.sgd(0.5))
    grads = jnp.array([[1.0, 0.0], [-3.0, 1.0]])
    updates, _ = tx.update(grads, tx.init(grads[0]), grads[0])
    np.testing.assert_allclose(updates, [-0.5, -0.5])


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"a": jnp.ones((3, 2))}, r"axis of length 2, got shape \(3, 2\)"),
        ({"a": jnp.ones((2, 2)), "b": jnp.ones(())}, r"got shape \(\)"),
        ({}, "no leaves"),
    ],
)
def test_another_number_of_objectives_is_refused(grads, message):
    rule = aggregators.munba()
    with pytest.raises(ValueError, match=message):
        rule.update(grads, rule.init(None))
