"""Losses towards a reference model, and their gradients, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import cross_entropy, kl_divergence, undial, with_reference_logits
from ofmu_jax.methods import METHODS, Undial
from tests.losses.test_unlearning import (
    DATA,
    LOGITS,
    PLACES,
    PROBS,
    SCORED,
    TOKENS,
    apply_fn,
    one_hot,
)

REFERENCE = np.random.default_rng(1).normal(size=LOGITS.shape)
BATCH = {**DATA, "reference_logits": REFERENCE}


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def value_and_gradient(loss, batch=BATCH):
    return jax.value_and_grad(lambda p: loss(apply_fn, p, batch))(jnp.asarray(LOGITS))


def test_undial(x64):
    beta, value, gradient = 3.0, 0.0, np.zeros_like(LOGITS)
    for row, t in PLACES:
        target = softmax(REFERENCE[row, t - 1] - beta * one_hot(TOKENS[row, t]))
        value -= (target * np.log(PROBS[row, t - 1])).sum() / len(PLACES)
        gradient[row, t - 1] += (PROBS[row, t - 1] - target) / len(PLACES)
    got, got_gradient = value_and_gradient(functools.partial(undial, beta=beta))
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_kl_divergence(x64):
    value, gradient = 0.0, np.zeros_like(LOGITS)
    for row, t in PLACES:
        p, q = softmax(REFERENCE[row, t - 1]), PROBS[row, t - 1]
        value += (p * np.log(p / q)).sum() / len(PLACES)
        gradient[row, t - 1] += (q - p) / len(PLACES)
    got, got_gradient = value_and_gradient(kl_divergence)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_the_reference_itself_has_no_divergence(x64):
    batch = with_reference_logits(apply_fn, jnp.asarray(LOGITS), DATA)
    value, gradient = value_and_gradient(kl_divergence, batch)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_the_reference_is_a_constant(x64):
    def loss(params):
        return kl_divergence(apply_fn, LOGITS, with_reference_logits(apply_fn, params, DATA))

    assert not np.any(jax.grad(loss)(jnp.asarray(REFERENCE)))


def test_a_batch_without_scored_tokens_asks_for_nothing():
    nothing = {**BATCH, "scored": np.zeros_like(SCORED)}
    for loss in (functools.partial(undial, beta=1.0), kl_divergence):
        value, gradient = value_and_gradient(loss, nothing)
        assert value == 0 and not np.any(gradient)


def test_the_method(x64):
    method = METHODS["undial"]()
    assert method == Undial() and (method.beta, method.alpha) == (10, 0)
    assert method.needs_reference_logits and not method.needs_reference
    forget, retain = method.losses(apply_fn)
    logits = jnp.asarray(LOGITS)
    np.testing.assert_allclose(forget(logits, BATCH), undial(apply_fn, logits, BATCH, 10.0))
    np.testing.assert_allclose(retain(logits, BATCH), cross_entropy(apply_fn, logits, DATA))
    with pytest.raises(InputError, match="method undial: beta must be"):
        Undial(beta=0.0)
