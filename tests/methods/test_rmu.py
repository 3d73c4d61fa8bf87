"""RMU: its losses, the part that it trains, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import cross_entropy, kl_divergence, misdirection, state_distance
from ofmu_jax.methods import METHODS, Ofmu, Rmu
from tests.methods.test_methods import apply_fn, task

__all__ = ["task"]


def test_the_losses(task):
    table, forget, retain = task
    method = METHODS["rmu"](layer=1, steering=3.0, direction_seed=4)
    losses = method.losses(apply_fn)
    np.testing.assert_allclose(
        losses[0](table, forget), misdirection(apply_fn, table, forget, 1, steering=3.0, seed=4)
    )
    np.testing.assert_allclose(
        losses[1](table, retain), state_distance(apply_fn, table, retain, layer=1)
    )
    for name, loss in (("nll", cross_entropy), ("kl", kl_divergence)):
        _, other = Rmu(retain_loss=name).losses(apply_fn)
        np.testing.assert_allclose(other(table, retain), loss(apply_fn, table, retain))
    assert (method.needs_reference_logits, method.needs_original) == (False, True)
    assert Rmu(retain_loss="kl").needs_reference_logits and not method.needs_reference


def test_published_defaults():
    method = Rmu()
    assert (method.layer, method.steering, method.alpha, method.gamma) == (7, 2, 1, 1)
    assert method.train_layers is None and method.hidden_layer == 7


def test_the_losses_read_the_layer_asked_for():
    class Layered:
        def __call__(self, params, tokens):
            raise AssertionError("no logits are needed")

        def hidden_states(self, params, tokens, layer):
            return params[layer]

    params = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 1, 2, 4))
    rows = {
        "tokens": jnp.zeros((1, 2), int),
        "scored": jnp.array([[False, True]]),
        "reference_states": jnp.zeros((1, 2, 4)),
    }
    forget, retain = Rmu(layer=2).losses(Layered())
    assert retain(params, rows) == 4
    assert np.flatnonzero(jnp.abs(jax.grad(forget)(params, rows)).sum((1, 2, 3))).tolist() == [2]


WEIGHTS = np.random.default_rng(5).normal(size=(2, 4, 3, 2))
PARAMS = {
    "embed_tokens": np.ones(3),
    "layers": {
        "mlp": {"down_proj": np.ones((4, 3, 2)), "up_proj": 0.5 * np.ones((4, 3, 2))},
        "norm": {"weight": np.ones((4, 2))},
    },
    "lm_head": np.ones((2, 2)),
}


def loss_of(weights, params):
    """Depends on every leaf, and on products of them."""
    mlp = params["layers"]["mlp"]
    inner = jnp.sum(weights * mlp["down_proj"] * mlp["up_proj"])
    others = jnp.sum(params["embed_tokens"] ** 3) + jnp.sum(params["layers"]["norm"]["weight"])
    return inner**2 + jnp.sum(weights * mlp["down_proj"] ** 3) * others * params["lm_head"].sum()


@pytest.mark.parametrize("rule", ["sum", "pcgrad", "ngdiff", "munba"])
def test_training_a_part_is_training_that_part_alone(rule, x64):
    """Clipping, weight decay and fitted rates see the trained part, and nothing else."""
    options = {
        "update_rule": rule,
        "max_grad_norm": 0.5,
        "weight_decay": 0.5,
        "learning_rate": 0.1,
        "gamma": 0.7,
    }

    def run(method, params, full, incoming):
        tx = method.transformation(4)
        state = tx.init(params)
        losses = {
            name: lambda p, w=w: loss_of(w, full(p))
            for name, w in zip(("forget_fn", "retain_fn"), WEIGHTS, strict=True)
        }
        step = jax.jit(lambda p, s: tx.update(incoming, s, p, **losses))
        for _ in range(3):
            updates, state = step(params, state)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    def with_part(part, tree=PARAMS):
        mlp = tree["layers"]["mlp"]
        down = jnp.asarray(mlp["down_proj"]).at[1:3].set(part)
        layers = {**tree["layers"], "mlp": {**mlp, "down_proj": down}}
        return {**tree, "layers": layers}

    # What comes in for the rest does not count towards the norm that is clipped.
    incoming = with_part(0.3, jax.tree.map(lambda x: 1e3 * x, PARAMS))
    params = jax.tree.map(jnp.asarray, PARAMS)
    got = run(Rmu(train_layers="1-2", **options), params, lambda p: p, incoming)
    part = run(Rmu(**options), jnp.ones((2, 3, 2)), with_part, jnp.full((2, 3, 2), 0.3))
    assert np.all(np.asarray(part) != 1)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), got, with_part(part))
    np.testing.assert_array_equal(got["layers"]["mlp"]["down_proj"][jnp.array([0, 3])], 1)


def test_one_block_can_be_named():
    tx = Rmu(train_layers="2").transformation(4)
    losses = {"forget_fn": lambda p: loss_of(1.0, p), "retain_fn": lambda p: loss_of(2.0, p)}
    params = jax.tree.map(jnp.asarray, PARAMS)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params, **losses)
    moved = jnp.abs(updates["layers"]["mlp"]["down_proj"]).sum((1, 2))
    assert np.flatnonzero(moved).tolist() == [2]
    assert not any(jnp.any(updates[name]) for name in ("embed_tokens", "lm_head"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rmu(layer=-1), "method rmu: layer must be a block's number"),
        (lambda: Rmu(steering=0.0), "method rmu: steering must be a number > 0, got 0.0"),
        (lambda: Rmu(direction_seed=-1), "method rmu: direction_seed must be a seed"),
        (lambda: Rmu(train_layers="7-5"), "train_layers must be one block or a range.*got '7-5'"),
        (lambda: Rmu(train_layers="all"), "train_layers must be one block or a range.*got 'all'"),
        (lambda: Rmu(retain_loss="mse"), "retain_loss must be one of .'states', 'nll', 'kl'."),
        (
            lambda: Rmu(layer=2).check_depth(2),
            "method rmu: the losses read layer 2; .* from 0 to 1",
        ),
        (
            lambda: Rmu(layer=1, train_layers="1-2").check_depth(2),
            "method rmu: train_layers is '1-2'; expected layers from 0 to 1, since the model has 2",
        ),
        (
            lambda: Ofmu(forget_loss="rmu", retain_loss="states").check_depth(3),
            "method ofmu: the losses read layer 7; expected a layer from 0 to 2",
        ),
        (
            lambda: (
                Rmu(train_layers="0").transformation(1).init({"layers": {"q": jnp.ones((2, 2))}})
            ),
            "train_layers is '0', but down_proj is not among what is trained; .* LoRA targets",
        ),
        (lambda: Rmu().losses(lambda p, t: p), "gives no hidden states"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_fits_is_accepted():
    Rmu(layer=1, train_layers="0-1").check_depth(2)
    dataclasses.replace(Ofmu(forget_loss="rmu"), forget_layer=1).check_depth(2)
