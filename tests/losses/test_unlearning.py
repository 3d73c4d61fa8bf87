"""Forget losses and their gradients against NumPy; parameters are the logits themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.losses import (
    average_loss_per_item,
    counterfactual_cross_entropy,
    cross_entropy,
    logit_margin,
    simnpo,
    weighted_ascent,
)
from ofmu_jax.methods import Ceu, GradDiff, SatImp, SimNpo, Wga, get_method

BATCH, LENGTH, VOCAB = 3, 6, 5
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(BATCH, LENGTH, VOCAB))
TOKENS = RNG.integers(VOCAB, size=(BATCH, LENGTH))
# Rows of 1, 2 and 3 scored tokens; the very first token is marked once, and must not count.
SCORED = np.array([[0, 0, 0, 1, 0, 0], [1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
DATA = {"tokens": TOKENS, "scored": SCORED}
PLACES = [(b, t) for b in range(BATCH) for t in range(1, LENGTH) if SCORED[b, t]]
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


def apply_fn(params, tokens):
    return params


def one_hot(token):
    return np.eye(VOCAB)[token]


def value_and_gradient(loss, **options):
    return jax.value_and_grad(functools.partial(loss, apply_fn, batch=DATA, **options))(
        jnp.asarray(LOGITS)
    )


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.0, 0.0), (5.0, 1.0), (0.5, 2.0)])
def test_weighted_ascent(x64, a, b):
    value, gradient = 0.0, np.zeros_like(LOGITS)
    for row, t in PLACES:
        p = PROBS[row, t - 1, TOKENS[row, t]]
        weight = p**a * (1 - p) ** b
        value += weight * np.log(p) / len(PLACES)
        # The weight is a constant: what remains is the gradient of log p.
        direction = one_hot(TOKENS[row, t]) - PROBS[row, t - 1]
        gradient[row, t - 1] += weight * direction / len(PLACES)
    got, got_gradient = value_and_gradient(weighted_ascent, likelihood=a, unlikelihood=b)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_without_weights_it_is_gradient_ascent(x64):
    got, gradient = value_and_gradient(weighted_ascent, likelihood=0.0)
    loss, loss_gradient = value_and_gradient(cross_entropy)
    np.testing.assert_allclose(got, -loss, rtol=1e-12)
    np.testing.assert_allclose(gradient, -loss_gradient, rtol=1e-10, atol=1e-14)


def test_certain_tokens_give_finite_gradients():
    certain = jnp.asarray(200.0 * np.eye(VOCAB)[np.roll(TOKENS, -1, axis=1)], jnp.float32)
    for options in ({"likelihood": 5.0, "unlikelihood": 1.0}, {"likelihood": 1.0}):
        loss = functools.partial(weighted_ascent, apply_fn, batch=DATA, **options)
        for logits in (certain, -certain):
            assert np.all(np.isfinite(jax.grad(loss)(logits)))


def test_simnpo(x64):
    beta, delta = 2.5, 0.3
    value, gradient = 0.0, np.zeros_like(LOGITS)
    for row in range(BATCH):
        places = [t for b, t in PLACES if b == row]
        nll = -np.mean([np.log(PROBS[row, t - 1, TOKENS[row, t]]) for t in places])
        sigmoid = 1 / (1 + np.exp(-beta * (nll - delta)))
        value += -2 / beta * np.log(sigmoid) / BATCH
        for t in places:
            rise = (PROBS[row, t - 1] - one_hot(TOKENS[row, t])) / len(places)  # of the NLL
            gradient[row, t - 1] += -2 * (1 - sigmoid) * rise / BATCH
    got, got_gradient = value_and_gradient(simnpo, beta=beta, delta=delta)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_counterfactual_cross_entropy(x64):
    value, gradient = 0.0, np.zeros_like(LOGITS)
    for row, t in PLACES:
        target = PROBS[row, t - 1] * (1 - one_hot(TOKENS[row, t]))
        target /= target.sum()
        value -= (target * np.log(PROBS[row, t - 1])).sum() / len(PLACES)
        gradient[row, t - 1] += (PROBS[row, t - 1] - target) / len(PLACES)
    got, got_gradient = value_and_gradient(counterfactual_cross_entropy)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_logit_margin(x64):
    value, gradient = 0.0, np.zeros_like(LOGITS)
    for row, t in PLACES:
        logits = LOGITS[row, t - 1]
        margin = logits.max() - logits.mean()
        value += margin**2 / len(PLACES)
        gradient[row, t - 1] += 2 * margin * (one_hot(logits.argmax()) - 1 / VOCAB) / len(PLACES)
    got, got_gradient = value_and_gradient(logit_margin)
    np.testing.assert_allclose(got, value, rtol=1e-10)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-8, atol=1e-14)


def test_a_uniform_model_has_no_margin(x64):
    got, gradient = jax.value_and_grad(lambda p: logit_margin(apply_fn, p, DATA))(
        jnp.full_like(LOGITS, 3.0)
    )
    assert got == 0 and not np.any(gradient)


def test_a_batch_without_scored_tokens_asks_for_nothing():
    nothing = {"tokens": TOKENS, "scored": np.zeros_like(SCORED)}
    for loss in (
        functools.partial(weighted_ascent, likelihood=1.0),
        counterfactual_cross_entropy,
        logit_margin,
    ):
        value, gradient = jax.value_and_grad(
            lambda logits, loss=loss: loss(apply_fn, logits, nothing)
        )(jnp.asarray(LOGITS, jnp.float32))
        assert value == 0 and not np.any(gradient)


METHOD_LOSSES = [
    (SimNpo(beta=2.0, delta=0.5), functools.partial(simnpo, beta=2.0, delta=0.5)),
    (Wga(beta=0.7), functools.partial(weighted_ascent, likelihood=0.7)),
    (
        SatImp(beta1=3.0, beta2=2.0),
        functools.partial(weighted_ascent, likelihood=3.0, unlikelihood=2.0),
    ),
    (Ceu(), counterfactual_cross_entropy),
]


@pytest.mark.parametrize(("method", "loss"), METHOD_LOSSES, ids=lambda x: getattr(x, "name", ""))
def test_the_methods_use_their_losses(x64, method, loss):
    forget, retain = method.losses(apply_fn)
    logits = jnp.asarray(LOGITS)
    np.testing.assert_allclose(forget(logits, DATA), loss(apply_fn, logits, DATA))
    np.testing.assert_allclose(retain(logits, DATA), cross_entropy(apply_fn, logits, DATA))
    assert isinstance(method, GradDiff) and get_method(method.name) is type(method)
    assert not method.needs_reference


def test_published_defaults():
    assert (SimNpo().beta, SimNpo().delta, SimNpo().gamma, SimNpo().alpha) == (4.5, 0, 0.125, 1)
    assert (Wga().beta, Wga().gamma, Wga().alpha) == (1, 1, 1)
    assert (SatImp().beta1, SatImp().beta2, SatImp().gamma, SatImp().alpha) == (5, 1, 0.1, 1)
    assert Ceu().alpha == 0


@pytest.mark.parametrize(("method", "loss"), METHOD_LOSSES, ids=lambda x: getattr(x, "name", ""))
def test_every_method_forgets(method, loss):
    """A few steps of its own optimiser on all logits raise the loss of the forget answers."""
    tx = method.transformation(40)
    forget, retain = method.losses(apply_fn)
    params = jnp.asarray(LOGITS, jnp.float32)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(
            None,
            state,
            params,
            forget_fn=lambda p: forget(p, DATA),
            retain_fn=lambda p: retain(p, {"tokens": TOKENS, "scored": ~SCORED}),
        )
        return params + 100 * updates, state

    before = average_loss_per_item(apply_fn, params, DATA)
    for _ in range(40):
        params, state = step(params, state)
    after = average_loss_per_item(apply_fn, params, DATA)
    assert np.all(after > before)


@pytest.mark.parametrize(
    ("method", "values", "named"),
    [
        (SimNpo, {"beta": 0.0}, "beta"),
        (SimNpo, {"delta": float("nan")}, "delta"),
        (Wga, {"beta": -1.0}, "beta"),
        (SatImp, {"beta1": -1.0}, "beta1"),
        (SatImp, {"beta2": float("inf")}, "beta2"),
        (Ceu, {"alpha": -1.0}, "alpha"),
    ],
)
def test_bad_hyperparameters_are_named(method, values, named):
    with pytest.raises(InputError, match=f"method {method.name}: {named} must be"):
        method(**values)


def test_bad_exponents_are_refused():
    with pytest.raises(InputError, match="exponents are -1.0 and 0.0"):
        weighted_ascent(apply_fn, LOGITS, DATA, likelihood=-1.0)
    with pytest.raises(InputError, match="simnpo beta is 0"):
        simnpo(apply_fn, LOGITS, DATA, beta=0)
