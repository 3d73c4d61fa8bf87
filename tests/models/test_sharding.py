"""The decoder on a mesh of eight virtual devices: same numbers, to the third order."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.losses import cross_entropy
from ofmu_jax.models import forward, logical_axes
from tests.models.test_decoder import CONFIG, make_params, make_tokens

RULES = (
    ("batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("kv_heads", "model"),
    ("mlp", "model"),
    *((name, None) for name in ("embed", "head_dim", "layers", "length", "keys", "query_groups")),
)


@pytest.fixture
def mesh():
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)
    with jax.set_mesh(mesh):
        yield mesh


def place(mesh, config, params):
    shardings = nn.logical_to_mesh_sharding(logical_axes(config), mesh, RULES)
    return jax.device_put(params, shardings)


def derivatives(config, params, directions, batch):
    """Loss, gradient, Hessian times u, and its derivative along v."""
    loss = functools.partial(cross_entropy, functools.partial(forward, config), batch=batch)

    def hvp(p):
        return jax.jvp(jax.grad(loss), (p,), (directions[0],))[1]

    value, gradient = jax.value_and_grad(loss)(params)
    return value, gradient, *jax.jvp(hvp, (params,), (directions[1],))


@pytest.mark.slow
def test_derivatives_to_the_third_order_are_those_of_one_device(mesh):
    config = dataclasses.replace(
        CONFIG, vocab_size=20, num_hidden_layers=2, initializer_range=0.2, remat="dots"
    )
    params, u, v = (make_params(config, seed) for seed in (0, 2, 4))
    batch = {"tokens": make_tokens((8, 6)), "scored": jnp.ones((8, 6), bool)}
    # Rules apply at tracing, so each case is traced anew.
    expected = jax.jit(functools.partial(derivatives, config))(params, (u, v), batch)
    with nn.logical_axis_rules(RULES):
        sharded = [place(mesh, config, tree) for tree in (params, u, v)]
        rows = jax.NamedSharding(mesh, jax.P("data"))
        placed = jax.device_put(batch, rows)
        run = jax.jit(functools.partial(derivatives, config))
        actual = run(sharded[0], tuple(sharded[1:]), placed)
    up_proj = actual[1]["layers"]["mlp"]["up_proj"]
    assert not up_proj.sharding.is_fully_replicated
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4 * np.abs(y).max()),
        *(actual, expected),
    )


def test_rules_reach_the_activations(mesh):
    config = dataclasses.replace(CONFIG, vocab_size=20)
    tokens = jax.device_put(make_tokens((8, 6)), jax.NamedSharding(mesh, jax.P("data")))
    params = place(mesh, config, make_params(config))
    with nn.logical_axis_rules(RULES):
        logits = jax.jit(lambda p, t: forward(config, p, t))(params, tokens)
    assert logits.sharding.is_equivalent_to(
        jax.NamedSharding(mesh, jax.P("data", None, "model")), 3
    )
