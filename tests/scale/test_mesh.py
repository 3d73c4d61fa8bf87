"""Meshes, what lies where, and what is refused: on eight virtual devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofmu_jax import bilevel
from ofmu_jax.errors import InputError
from ofmu_jax.models import DecoderConfig, forward, init_params
from ofmu_jax.models.decoder import logical_axes
from ofmu_jax.models.tensors import abstract_params
from ofmu_jax.scale import (
    MeshShape,
    check_agreement,
    fetch,
    make_mesh,
    own_rows,
    param_shardings,
    place,
    place_rows,
    replicated,
    row_sharding,
    shardings_like,
    use_mesh,
)

CONFIG = DecoderConfig(64, 32, 48, 3, 4, 2)


def shardings(shape, config=CONFIG):
    mesh = make_mesh(shape)
    return mesh, param_shardings(mesh, logical_axes(config), abstract_params(config))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (MeshShape(), (1, 1, 1)),
        (MeshShape(fsdp=-1), (1, 8, 1)),
        (MeshShape(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (MeshShape(data=-1, fsdp=2), (4, 2, 1)),
        (MeshShape(tensor=4), (1, 1, 4)),
    ],
)
def test_a_mesh_has_the_sizes_asked_for(shape, sizes):
    assert tuple(make_mesh(shape).shape.values()) == sizes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            MeshShape(fsdp=3, data=-1),
            "mesh fsdp 3 x tensor 1 needs a multiple of 3 devices; there are 8",
        ),
        (
            MeshShape(data=4, fsdp=4),
            "mesh data 4 x fsdp 4 x tensor 1 needs 16 devices; there are 8",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(shape, message):
    with pytest.raises(InputError, match=message):
        make_mesh(shape)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (-2, 1, 1), (True, 1, 1), (-1, -1, 1), (1.5, 1, 1)])
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(InputError, match="mesh axis|only one axis"):
        MeshShape(*sizes)


def test_parameters_lie_by_the_names_of_their_axes():
    mesh, found = shardings(MeshShape(2, 2, 2))
    layers = found["layers"]
    assert layers["mlp"]["up_proj"].spec == jax.P(None, "fsdp", "tensor")
    assert layers["mlp"]["down_proj"].spec == jax.P(None, "tensor", "fsdp")
    assert layers["self_attn"]["q_proj"].spec == jax.P(None, "fsdp", "tensor", None)
    assert found["embed_tokens"].spec == jax.P("tensor", "fsdp")
    assert row_sharding(mesh).spec == jax.P(("data", "fsdp"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            MeshShape(tensor=4),
            "mesh axis tensor has 4 devices; expected a divisor of 2, the size of axis 'kv_heads' "
            "of parameter layers.self_attn.k_proj",
        ),
        (MeshShape(fsdp=8), "mesh axis fsdp has 8 devices; expected a divisor of 36"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(shape, message):
    config = CONFIG if shape.tensor > 1 else DecoderConfig(64, 36, 48, 3, 4, 2, head_dim=8)
    with pytest.raises(InputError, match=message):
        shardings(shape, config)


def test_rows_that_the_mesh_does_not_divide_are_refused():
    with pytest.raises(
        InputError, match=r"a batch has 6 rows; expected a multiple of 4.*data \(2\)"
    ):
        own_rows(make_mesh(MeshShape(2, 2, 2)), 6)


def test_optimiser_states_lie_as_the_parameters_they_belong_to():
    mesh, found = shardings(MeshShape(1, 4, 2))
    params = abstract_params(CONFIG)
    tx = bilevel.ofmu(optax.adam(0.1), optax.chain(optax.clip(1.0), optax.adamw(0.1)))
    state = jax.eval_shape(tx.init, params)
    placed = shardings_like(state, params, found, mesh)
    for moments in (placed.inner.opt_state[0].mu, placed.outer[1][0].nu):
        chex.assert_trees_all_equal(moments, found)
    assert placed.diagnostics.forget_loss == replicated(mesh)
    assert placed.outer[1][0].count == replicated(mesh)


def test_a_leaf_of_another_shape_does_not_lie_as_its_namesake():
    mesh, found = shardings(MeshShape(1, 4, 2))
    params = abstract_params(CONFIG)
    state = {"scales": {"embed_tokens": jnp.zeros(64)}}
    assert shardings_like(state, params, found, mesh)["scales"]["embed_tokens"] == replicated(mesh)


@given(st.sampled_from([(1, 1, 1), (2, 2, 2), (8, 1, 1), (1, 2, 4)]), st.integers(1, 3))
def test_rows_come_back_as_they_went(sizes, multiple):
    mesh = make_mesh(MeshShape(*sizes))
    rows = 8 * multiple
    batch = {"tokens": np.arange(rows * 3).reshape(rows, 3), "scored": np.arange(rows) % 2 == 0}
    own = own_rows(mesh, rows)
    placed = place_rows(mesh, jax.tree.map(lambda x: x[own], batch), own, rows)
    assert placed["tokens"].sharding == row_sharding(mesh)
    chex.assert_trees_all_equal(fetch(placed), batch)


def test_a_device_holds_its_part_alone():
    found = shardings(MeshShape(1, 4, 2))[1]
    params = place(init_params(CONFIG, jax.random.key(0)), found)
    weight = params["layers"]["mlp"]["up_proj"]
    assert {s.data.shape for s in weight.addressable_shards} == {(3, 32 // 4, 48 // 2)}


def test_the_model_gives_the_same_logits_on_a_mesh():
    params = init_params(CONFIG, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (8, 6), 0, 64)
    mesh, found = shardings(MeshShape(2, 2, 2))
    with use_mesh(mesh):
        program = jax.jit(lambda p, t: forward(CONFIG, p, t))
        spread = program(place(params, found), place(tokens, row_sharding(mesh)))
    assert spread.sharding.spec[0] == ("data", "fsdp")
    chex.assert_trees_all_close(fetch(spread), fetch(forward(CONFIG, params, tokens)), atol=1e-6)


def test_one_process_agrees_with_itself():
    check_agreement({"the config": b"anything"})
