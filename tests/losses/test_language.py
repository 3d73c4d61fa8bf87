import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import (
    average_loss_per_item,
    cross_entropy,
    npo,
    sequence_log_prob,
    token_log_probs,
)

BATCH, LENGTH, VOCAB = 4, 6, 5
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(3 * RNG.normal(size=(BATCH, LENGTH, VOCAB)), jnp.float32)
TOKENS = jnp.asarray(RNG.integers(VOCAB, size=(BATCH, LENGTH)))
# Rows of 1, 2, 3 and no scored tokens; the very first token is marked once, and must not count.
SCORED = jnp.asarray(
    [[0, 0, 0, 1, 0, 0], [1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool
)
DATA = {"tokens": TOKENS, "scored": SCORED}


def apply_fn(params, tokens):
    """A model whose parameters are its logits."""
    del tokens
    return params


def expected_log_probs():
    logits = np.asarray(LOGITS, np.float64)
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array(
        [[table[b, t - 1, TOKENS[b, t]] for t in range(1, LENGTH)] for b in range(BATCH)]
    )


def masked_sums():
    return (expected_log_probs() * np.asarray(SCORED)[:, 1:]).sum(1)


def test_token_log_probs():
    actual = token_log_probs(LOGITS, TOKENS)
    np.testing.assert_allclose(actual, expected_log_probs(), rtol=1e-5, atol=1e-6)


def test_token_log_probs_of_extreme_logits_are_finite():
    actual = token_log_probs(1e4 * LOGITS, TOKENS)
    assert np.all(np.isfinite(actual))


def test_cross_entropy_weighs_tokens_not_rows():
    loss = cross_entropy(apply_fn, LOGITS, DATA)
    assert float(loss) == pytest.approx(-masked_sums().sum() / 6, rel=1e-5)


def test_per_item_losses():
    np.testing.assert_allclose(
        sequence_log_prob(apply_fn, LOGITS, DATA), masked_sums(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        average_loss_per_item(apply_fn, LOGITS, DATA),
        -masked_sums() / np.array([1, 2, 3, 1]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_nothing_scored_is_no_loss_and_no_gradient():
    batch = DATA | {"scored": jnp.zeros_like(SCORED)}
    loss, gradient = jax.value_and_grad(cross_entropy, argnums=1)(apply_fn, LOGITS, batch)
    assert loss == 0
    assert not np.any(gradient)


def test_unscored_tokens_get_no_gradient():
    gradient = np.asarray(jax.grad(cross_entropy, argnums=1)(apply_fn, LOGITS, DATA))
    # Logits at t predict the token at t + 1.
    predicts_scored = np.pad(np.asarray(SCORED)[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, predicts_scored)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_npo_value_and_gradient(beta):
    s = masked_sums()
    reference = s + np.array([3.0, -2.0, 0.0, 1.0])

    def loss(logits):
        return npo(apply_fn, logits, DATA, jnp.asarray(reference, jnp.float32), beta)

    gain = s - reference
    expected = 2 / beta * np.mean(np.log1p(np.exp(beta * gain)))
    assert float(loss(LOGITS)) == pytest.approx(expected, rel=1e-5)

    weight = 2 / (1 + np.exp(-beta * gain)) / BATCH
    rows = jax.jacrev(lambda x: sequence_log_prob(apply_fn, x, DATA))(LOGITS)
    np.testing.assert_allclose(
        jax.grad(loss)(LOGITS), np.einsum("b,b...->...", weight, rows), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("offset", "value", "weight"), [(1e5, 0.0, 0.0), (-1e5, 2e5, 2.0)])
def test_npo_is_stable_far_from_the_reference(offset, value, weight):
    batch = {"tokens": TOKENS[:1], "scored": SCORED[:1]}
    reference = sequence_log_prob(apply_fn, LOGITS[:1], batch) + offset
    loss, gradient = jax.value_and_grad(lambda x: npo(apply_fn, x, batch, reference, beta=1.0))(
        LOGITS[:1]
    )
    assert float(loss) == pytest.approx(value, rel=1e-4)
    row = jax.grad(lambda x: sequence_log_prob(apply_fn, x, batch)[0])(LOGITS[:1])
    np.testing.assert_allclose(gradient, weight * row, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_npo_rejects_a_beta_that_is_not_positive(beta):
    with pytest.raises(InputError, match="beta"):
        npo(apply_fn, LOGITS, DATA, jnp.zeros(BATCH), beta)
