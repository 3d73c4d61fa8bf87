"""DPO and its gradient against NumPy, and as the relative of NPO that it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import cross_entropy, dpo, npo
from ofmu_jax.methods import AltPo, IdkDpo, IdkNll, get_method
from tests.losses.test_unlearning import DATA, LOGITS, PLACES, PROBS, TOKENS, apply_fn, one_hot

ROWS = len(TOKENS)
RNG = np.random.default_rng(2)


def two_tables(params, tokens):
    """A model that answers the true and the other tokens from logits of their own."""
    return params["other"] if tokens.shape[1] == 4 else params["true"]


PARAMS = {"true": LOGITS, "other": RNG.normal(size=(ROWS, 4, 5))}
OTHER = {
    "tokens": RNG.integers(5, size=(ROWS, 4)),
    "scored": np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool),
    "reference_log_prob": RNG.normal(size=ROWS) - 3,
}
BATCH = {**DATA, "reference_log_prob": RNG.normal(size=ROWS) - 4, "alternative": OTHER}


def sums_and_gradients(logits, probs, tokens, places):
    sums, gradients = np.zeros(ROWS), np.zeros((ROWS, *logits.shape))
    for row, t in places:
        sums[row] += np.log(probs[row, t - 1, tokens[row, t]])
        gradients[row, row, t - 1] += one_hot(tokens[row, t]) - probs[row, t - 1]
    return sums, gradients


def test_dpo(x64):
    beta = 0.7
    probs = np.exp(PARAMS["other"])
    probs /= probs.sum(-1, keepdims=True)
    places = [(b, t) for b in range(ROWS) for t in range(1, 4) if OTHER["scored"][b, t]]
    other, other_gradients = sums_and_gradients(PARAMS["other"], probs, OTHER["tokens"], places)
    true, true_gradients = sums_and_gradients(LOGITS, PROBS, TOKENS, PLACES)
    gap = other - OTHER["reference_log_prob"] - (true - BATCH["reference_log_prob"])
    sigmoid = 1 / (1 + np.exp(-beta * gap))
    weights = (2 * (1 - sigmoid) / ROWS)[:, None, None, None]
    loss = functools.partial(dpo, two_tables, batch=BATCH, beta=beta)
    value, gradient = jax.value_and_grad(loss)(jax.tree.map(jnp.asarray, PARAMS))
    np.testing.assert_allclose(value, -2 / beta * np.log(sigmoid).mean(), rtol=1e-10)
    np.testing.assert_allclose(gradient["true"], (weights * true_gradients).sum(0), atol=1e-12)
    np.testing.assert_allclose(gradient["other"], -(weights * other_gradients).sum(0), atol=1e-12)


def test_without_gain_on_the_other_answer_it_is_npo(x64):
    params = jax.tree.map(jnp.asarray, PARAMS)
    other = dpo(two_tables, params, BATCH, 0.3)
    assert other != npo(two_tables, params, BATCH, BATCH["reference_log_prob"], 0.3)
    still = {**OTHER, "scored": np.zeros_like(OTHER["scored"]), "reference_log_prob": np.zeros(3)}
    np.testing.assert_allclose(
        dpo(two_tables, params, {**BATCH, "alternative": still}, 0.3),
        npo(two_tables, params, BATCH, BATCH["reference_log_prob"], 0.3),
    )


def test_the_methods(x64):
    params = jax.tree.map(jnp.asarray, PARAMS)
    forget, retain = IdkDpo(beta=0.4).losses(two_tables)
    np.testing.assert_allclose(forget(params, BATCH), dpo(two_tables, params, BATCH, 0.4))
    np.testing.assert_allclose(retain(params, DATA), cross_entropy(two_tables, params, DATA))
    forget, _ = IdkNll().losses(two_tables)
    np.testing.assert_allclose(forget(params, BATCH), cross_entropy(two_tables, params, OTHER))
    assert (IdkDpo().beta, IdkDpo().gamma, IdkDpo().alpha) == (0.1, 1, 1)
    assert IdkNll().needs_refusals and IdkDpo().needs_refusals
    assert IdkDpo().needs_reference and not IdkNll().needs_reference


def test_alternatives_take_the_place_of_refusals(x64):
    method = AltPo(beta=0.4)
    forget, _ = method.losses(two_tables)
    params = jax.tree.map(jnp.asarray, PARAMS)
    np.testing.assert_allclose(forget(params, BATCH), dpo(two_tables, params, BATCH, 0.4))
    assert get_method("altpo") is AltPo and (AltPo().beta, AltPo().gamma, AltPo().alpha) == (
        0.1,
        1,
        1,
    )
    assert method.needs_alternatives and method.needs_reference and not method.needs_refusals
    assert not IdkDpo().needs_alternatives


def test_bad_temperatures_are_named():
    with pytest.raises(InputError, match="dpo beta is 0"):
        dpo(apply_fn, LOGITS, BATCH, 0)
    with pytest.raises(InputError, match="method idk_dpo: beta must be"):
        IdkDpo(beta=-1.0)
