"""Losses on hidden states, and their gradients, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import (
    misdirection,
    random_direction,
    state_distance,
    with_reference_states,
)
from ofmu_jax.losses.representation import as_network
from tests.losses.test_unlearning import BATCH, DATA, LENGTH, PLACES, SCORED

LAYERS, SIZE = 3, 4
RNG = np.random.default_rng(3)
STATES = RNG.normal(size=(LAYERS, BATCH, LENGTH, SIZE))
REFERENCE = RNG.normal(size=(BATCH, LENGTH, SIZE))


class Free:
    """A network whose parameters are its hidden states."""

    def __call__(self, params, tokens):
        return params[-1]

    def hidden_states(self, params, tokens, layer):
        return params[layer]


NETWORK = Free()


def value_and_gradient(loss, batch=DATA, **options):
    return jax.value_and_grad(lambda p: loss(NETWORK, p, batch, **options))(jnp.asarray(STATES))


def distance(layer, target):
    """Mean square over scored tokens and features, each state at its token's own place."""
    value, gradient = 0.0, np.zeros_like(STATES)
    for row, t in PLACES:
        gap = STATES[layer, row, t] - target[row, t]
        value += (gap**2).mean() / len(PLACES)
        gradient[layer, row, t] += 2 * gap / SIZE / len(PLACES)
    return value, gradient


def test_misdirection(x64):
    direction = np.asarray(random_direction(5, SIZE))
    value, gradient = distance(1, np.broadcast_to(2.5 * direction, REFERENCE.shape))
    got, got_gradient = value_and_gradient(misdirection, layer=1, steering=2.5, seed=5)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-5, atol=1e-9)


def test_state_distance(x64):
    value, gradient = distance(2, REFERENCE)
    batch = {**DATA, "reference_states": REFERENCE}
    got, got_gradient = value_and_gradient(state_distance, batch, layer=2)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_the_direction_is_a_unit_vector_of_its_seed():
    drawn = [np.asarray(random_direction(seed, 1000)) for seed in (0, 0, 1)]
    for direction in drawn:
        np.testing.assert_allclose(np.linalg.norm(direction), 1, rtol=1e-5)
        # Uniform in [0, 1) before it is normalised, so of mean sqrt(3) / 2 over the root of E.
        assert np.all(direction >= 0) and direction.dtype == np.float32
        np.testing.assert_allclose(direction.mean() * 1000**0.5, 3**0.5 / 2, rtol=0.03)
    assert np.array_equal(drawn[0], drawn[1]) and not np.allclose(drawn[0], drawn[2])


def test_the_reference_is_a_constant_at_distance_0(x64):
    batch = with_reference_states(NETWORK, jnp.asarray(STATES), DATA, 1)
    value, gradient = value_and_gradient(state_distance, batch, layer=1)
    assert value == 0 and not np.any(gradient)

    def loss(params):
        batch = with_reference_states(NETWORK, params, DATA, 1)
        return state_distance(NETWORK, jnp.zeros_like(STATES), batch, 1)

    assert loss(jnp.asarray(STATES)) > 0 and not np.any(jax.grad(loss)(jnp.asarray(STATES)))


def test_a_batch_without_scored_tokens_asks_for_nothing():
    nothing = {**DATA, "scored": np.zeros_like(SCORED), "reference_states": REFERENCE}
    for loss in (
        functools.partial(misdirection, layer=0, steering=1.0, seed=0),
        functools.partial(state_distance, layer=0),
    ):
        value, gradient = value_and_gradient(loss, nothing)
        assert value == 0 and not np.any(gradient)


def test_half_precision_is_widened():
    states = jnp.full((1, 1, 2, 256), 300.0, jnp.float16)
    batch = {
        "tokens": jnp.zeros((1, 2), int),
        "scored": jnp.array([[False, True]]),
        "reference_states": jnp.zeros((1, 2, 256), jnp.float16),
    }
    loss = state_distance(NETWORK, states, batch, layer=0)
    np.testing.assert_allclose(loss, 300.0**2, rtol=1e-3)  # beyond the largest float16


def test_a_plain_function_gives_no_hidden_states():
    assert as_network(NETWORK) is NETWORK
    with pytest.raises(InputError, match="gives no hidden states; expected a method hidden_states"):
        as_network(lambda params, tokens: params)
